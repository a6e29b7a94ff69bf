"""``POST`` of entries: teaching images. The next answer knows of them."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field

from secondlook.model.answering.predictor import NO_OVERRIDES, Answer, Outcome, Predictor
from secondlook.model.answering.told import Opinion
from secondlook.model.bundles.files import encoder_id
from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError
from secondlook.model.journal import Addition, NewImage
from secondlook.model.journal import Request as Repeatable
from secondlook.model.labels import check_label
from secondlook.model.stores.added_keys import added_id
from secondlook.service.batching.turns import Timing
from secondlook.service.errors import UnavailableError
from secondlook.service.problems import Kind, Problem, ProblemError, documented, of_image
from secondlook.service.routes.answer import Answered, answer
from secondlook.service.routes.decide import Admin, journal_of
from secondlook.service.routes.images import images_body
from secondlook.service.routes.receive import Upload, announced_bytes, receive
from secondlook.service.state import Running, State
from secondlook.service.thumbnails import thumbnail

LABEL = "label"
REPLAYED = "Idempotent-Replayed"

router = APIRouter(
    tags=["teach"],
    responses=documented(
        Kind.KEY_MISSING,
        Kind.KEY_REFUSED,
        Kind.ADMIN_DISABLED,
        Kind.BUNDLES_READ_ONLY,
        Kind.LABEL_LIKE_ANOTHER,
        Kind.INVALID_PARAMETER,
        Kind.MALFORMED_REQUEST,
        Kind.NOT_KEPT,
        Kind.DISK_FULL,
    ),
)

_TEXT = {"type": "string", "description": "What the images show. A new label makes a new class."}


class TaughtEntry(BaseModel):
    """An image that is an entry now."""

    filename: str | None
    id: int
    before: Opinion | None = Field(description="What it was taken for until then; null where nothing was known.")


class Taught(BaseModel):
    """What teaching came to."""

    generation: str
    change: int = Field(description="Number of the change; /v1/admin/changes lists it.")
    label: str
    index: int | None = Field(description="The class; null where, in a repeated request's answer, it is gone again.")
    is_new_class: bool
    entries: list[TaughtEntry | Problem] = Field(description="In the order sent.")


@router.post(
    "/v1/entries",
    status_code=201,
    summary="Teach images",
    openapi_extra={"requestBody": images_body(**{LABEL: _TEXT})},
    response_model=Taught,
    responses=documented(
        Kind.UNDECODABLE_IMAGE,
        Kind.IMAGE_TOO_SLOW,
        Kind.MALFORMED_REQUEST,
        Kind.BUNDLES_READ_ONLY,
        Kind.LABEL_LIKE_ANOTHER,
        Kind.TOO_MANY_TAUGHT,
        Kind.TOO_MANY_BYTES,
        Kind.TOO_MANY_PIXELS,
        Kind.TOO_MANY_FILES,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.INVALID_PARAMETER,
        Kind.MISSING_FILE,
        Kind.IDEMPOTENCY_KEY_REUSED,
        Kind.QUEUE_FULL,
        Kind.NOT_READY,
        Kind.TOO_SLOW,
    ),
)
async def teach(
    request: Request,
    state: Running,
    key: Admin,
    label: Annotated[str | None, Query(description="What the images show, where no field says it.")] = None,
    partial_: Annotated[
        bool, Query(alias="partial", description="Keep the images that can be, and say what is wrong with the others.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=200, description="The same call under the same key is done once."),
    ] = None,
) -> Response:
    """Add images to the cache under a label, which makes a new class where it is new: all of them, or none.

    They are on the disk when this answers, and the next prediction is made with them.
    """
    state.generations.require_writable()
    journal = journal_of(state)
    with state.admission.admit(announced_bytes(request)) as ticket:
        form = await receive(request, state.settings, ticket, LABEL)
        predictor = await state.current()
        label = check_label(_only(form.fields.get(LABEL), label), predictor.classes)
        repeatable = _repeatable(idempotency_key, label, partial_, form.files)
        if repeatable is not None:
            first = await asyncio.to_thread(journal.answered, key.name, repeatable)
            if first is not None:
                await state.generations.catch_up()
                return _answer(state, first, is_replayed=True)
        answered = await answer(request, state, form.files, NO_OVERRIDES, 0, Timing())
        results = answered.results
        failed = [_problem(result, upload) for upload, result in zip(form.files, results, strict=True)]
        problems = [problem for problem in failed if problem is not None]
        if problems and (not partial_ or len(problems) == len(results)):
            raise problems[0]
        copies = await _mirrored_keys(state, answered)
        taught = await asyncio.to_thread(
            journal.add,
            label,
            await asyncio.to_thread(_new_images, form.files, answered, copies),
            key.name,
            known=answered.reply.predictor.bundle.manifest.classes,
            most=state.settings.max_taught,
            request=repeatable,
            answer=partial(_kept, answered.reply.predictor, form.files, results),
        )
    await state.generations.catch_up()
    return _answer(state, taught.answer, is_replayed=taught.is_repeated)


async def _mirrored_keys(state: State, answered: Answered) -> list[Floats]:
    """Keys (D,) of the mirrored copies of the images that were answered, where the generation keeps such."""
    predictor = answered.reply.predictor
    if not predictor.bundle.manifest.dataset.mirrored:
        return []
    images = answered.images[[isinstance(result, Answer) for result in answered.results]]
    try:
        async with asyncio.timeout(state.settings.request_timeout_s):
            return list(await state.batcher.keys(predictor, np.ascontiguousarray(images[:, :, ::-1])))
    except TimeoutError as error:
        raise UnavailableError("the server is too busy to keep images now: try again later") from error


def _new_images(uploads: list[Upload], answered: Answered, copies: list[Floats]) -> list[NewImage]:
    """The images that were answered, with the keys and thumbnails that were made of them."""
    encoder = encoder_id(answered.reply.predictor.bundle.manifest)
    left = iter(copies)
    images = []
    for upload, result, pixels in zip(uploads, answered.results, answered.images, strict=True):
        if isinstance(upload.content, bytes) and isinstance(result, Answer):
            keys = {(encoder, False): result.key}
            mirrored = next(left, None)
            if mirrored is not None and np.isfinite(mirrored).all():
                keys[encoder, True] = mirrored
            images.append(NewImage(upload.filename or "", upload.content, keys, thumbnail(pixels)))
    return images


def _only(in_form: str | None, in_query: str | None) -> str:
    """The label, wherever it was given."""
    given = {label for label in (in_form, in_query) if label is not None}
    if len(given) > 1:
        raise ParameterError(f"{LABEL}: the form and the query name two: give one")
    if not given:
        raise ParameterError(f"{LABEL}: it is missing: say what the images show")
    return given.pop()


def _repeatable(sent: str | None, label: str, is_partial: bool, uploads: list[Upload]) -> Repeatable | None:
    if sent is None:
        return None
    digest = sha256(json.dumps([label, is_partial]).encode())
    for upload in uploads:
        content = upload.content if isinstance(upload.content, bytes) else b""
        digest.update(sha256(content).digest())
    return Repeatable(sent, digest.digest())


def _problem(result: Outcome | Exception, upload: Upload) -> ProblemError | None:
    return of_image(result, upload.filename) if isinstance(result, Exception) else None


def _kept(predictor: Predictor, uploads: list[Upload], results: list[Outcome | Exception], kept: Addition) -> str:
    """The answer, less generation and index, as it is kept for the case that the call is repeated."""
    left = iter(kept.numbers)
    entries: list[dict[str, Any]] = []
    for upload, result in zip(uploads, results, strict=True):
        if isinstance(result, Exception):
            entries.append(of_image(result, upload.filename).problem.model_dump(exclude_none=True))
            continue
        assert isinstance(result, Answer)
        before: Opinion | None = None
        if not predictor.knows_nothing:
            first = int(result.mixed.argmax())
            before = {"label": predictor.classes[first], "probability": float(result.mixed[first])}
        entry = TaughtEntry(filename=upload.filename, id=added_id(next(left)), before=before)
        entries.append(entry.model_dump())
    return json.dumps({"change": kept.change, LABEL: kept.label, "is_new_class": kept.is_new, "entries": entries})


def _answer(state: State, kept: str, *, is_replayed: bool) -> Response:
    predictor, answer = state.batcher.predictor, json.loads(kept)
    answer["generation"] = predictor.bundle.manifest.generation
    answer["index"] = predictor.overlay.index.get(answer[LABEL])
    headers = {REPLAYED: "true"} if is_replayed else None
    return Response(json.dumps(answer), 201, headers, media_type="application/json")

"""``POST /v1/predict``: let in, receive, decode, queue, answer."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from model.cache import MAX_THETA, check_parameters
from model.doubt import COVERAGES, check_coverage
from model.errors import ImageError, ImageTooLargeError
from model.images import Limits, decode
from model.predictor import MAX_NEIGHBORS, Answer
from service.auth import OPTIONAL, require_predict
from service.batcher import Overrides, Reply, Timing
from service.errors import SizeChangedError
from service.problems import Kind, ProblemError, documented, of_image, of_validation
from service.reasons import MAX_VOTES
from service.schemas import ANSWER, Predictions, Wanted, prediction
from service.state import State
from service.uploads import FIELD, Upload, announced_bytes, read_uploads

PATH = "/v1/predict"
DISCONNECTED = "http.disconnect"
SMALL_BYTES, SMALL_PIXELS = 8 << 10, 1 << 16
"""A lone image of so few bytes and pixels is decoded where it is: that takes 0.2 ms, and going to the pool and back as
long again."""
_COMPRESSED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
"""A PNG's chunks besides its pixels, which may be inflated to a thousand times their size: 30 ms, of 8 KiB."""
WATCH_AFTER_S = 0.1
"""From then on it is watched whether the client is still there: most are answered before, and watching has a price."""
router = APIRouter(tags=["predict"])

_BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC; of several images in one, the first.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "minItems": 1, "items": _BINARY}},
            }
        },
        "image/*": {"schema": _BINARY},
    },
}


def _parse_k(given: object) -> object:
    if given == "all" or (isinstance(given, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", given)):
        return given
    raise ValueError("give a whole number of at least 1, or all")


K = Annotated[
    int | Literal["all"],
    BeforeValidator(_parse_k),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 10**18 - 1}, {"const": "all"}]}),
]


class Asked(BaseModel):
    """What the query asks for."""

    top: int = Field(5, ge=1, le=1000, description="Classes listed.")
    neighbors: int = Field(0, ge=0, le=MAX_NEIGHBORS, description="Nearest entries listed.")
    lam: float | None = Field(
        None,
        description="Weight of the cache, instead of the model's own.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    theta: float | None = Field(
        None,
        description="Sharpness of the vote, instead of the model's own.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": MAX_THETA},
    )
    k: K | None = Field(None, description="How many entries vote, or all, instead of the model's own.")
    votes: int = Field(
        0,
        ge=0,
        le=MAX_VOTES,
        description="Nearest entries told by class and similarity alone, for other theta, lam and k.",
    )
    coverage: float | None = Field(
        None,
        description="How often a set of labels is to hold the right one: each answer has such a set.",
        json_schema_extra={"minimum": COVERAGES[0], "maximum": COVERAGES[1]},
    )
    abstain: bool = Field(False, description="Say of each image whether to answer 'unknown' instead.")


class Direct:
    """The ASGI layer that answers the call past FastAPI, whose router only documents it.

    Finding the route, its parameters and what to do about errors takes FastAPI 0.4 ms a call, a quarter of what the
    network takes for one image. Errors are left to the layers around it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what is another call."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = router.routes[0]  # as FastAPI would: requests are counted by it
        request = Request(scope, receive, send)
        await require_predict(request)
        try:
            asked = Asked.model_validate(dict(request.query_params))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise of_validation({**first, "loc": ("query", *first["loc"])}) from error
        response = await predict(request, asked)
        await response(scope, receive, send)


@router.post(
    PATH,
    summary="Say what images show",
    openapi_extra={"requestBody": REQUEST_BODY, **OPTIONAL},
    response_model=Predictions,
    responses=documented(
        Kind.UNDECODABLE_IMAGE,
        Kind.MALFORMED_REQUEST,
        Kind.KEY_MISSING,
        Kind.KEY_REFUSED,
        Kind.TOO_SLOWLY_SENT,
        Kind.TOO_MANY_BYTES,
        Kind.TOO_MANY_PIXELS,
        Kind.TOO_MANY_FILES,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.INVALID_PARAMETER,
        Kind.MISSING_FILE,
        Kind.QUEUE_FULL,
        Kind.INTERNAL,
        Kind.NOT_READY,
        Kind.TOO_SLOW,
    ),
)
async def predict(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """Send one image or more in the multipart field `file`, or one as a raw body of type `image/*`.

    An image that fails has a problem document in its place, the others are answered; a single image's problem is the
    response itself.
    """
    state: State = request.app.state.running
    theta, lam, k = asked.theta, asked.lam, asked.k
    check_parameters(1.0 if theta is None else theta, 0.0 if lam is None else lam, None if k == "all" else k)
    if asked.coverage is not None:
        check_coverage(asked.coverage)
    wanted = Wanted(asked.top, asked.neighbors, asked.votes, asked.coverage, asked.abstain)
    nearest = max(asked.neighbors, asked.votes)
    timing = Timing()
    with state.door.admit(announced_bytes(request)) as ticket:
        try:
            uploads = await read_uploads(request, state.settings, ticket)
        except ClientDisconnect:
            state.metrics.count_dropped("client_gone")
            raise
        overrides = Overrides(theta, lam, k)
        reply, results = await answer_in_time(request, state, uploads, overrides, nearest, timing)
    state.metrics.count_results(results)
    if len(results) == 1 and isinstance(results[0], Exception):
        raise of_image(results[0], uploads[0].filename)
    answer: Predictions = {
        "generation": reply.predictor.bundle.manifest.generation,
        "lam": reply.parameters.lam,
        "theta": reply.parameters.theta,
        "k": reply.parameters.k,
        "predictions": [
            of_image(result, upload.filename).problem
            if isinstance(result, Exception)
            else prediction(reply.predictor, result, reply.parameters, upload.filename, wanted)
            for upload, result in zip(uploads, results, strict=True)
        ],
    }
    headers = {"Server-Timing": _server_timing(timing)}
    return Response(ANSWER.dump_json(answer), media_type="application/json", headers=headers)


async def answer_in_time(
    request: Request, state: State, uploads: list[Upload], overrides: Overrides, neighbors: int, timing: Timing
) -> tuple[Reply, list[Answer | Exception]]:
    """The answer, unless the client leaves first or its time is over.

    Raises:
        ClientDisconnect: the client left.
        ProblemError: its time is over.
    """
    deadline = time.monotonic() + state.settings.request_timeout_s
    has_ended = has_left = False
    leaving: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal leaving
        leaving = loop.create_task(_disconnected(request))
        leaving.add_done_callback(left)

    def left(leaving: asyncio.Task[None]) -> None:
        nonlocal has_left
        if not has_ended and not leaving.cancelled():
            has_left = True
            limit.reschedule(0)

    loop = asyncio.get_running_loop()
    watching = loop.call_later(WATCH_AFTER_S, watch)
    try:
        async with asyncio.timeout(state.settings.request_timeout_s) as limit:
            try:
                return await _answer(state, uploads, overrides, neighbors, deadline, timing)
            except SizeChangedError:
                return await _answer(state, uploads, overrides, neighbors, deadline, timing)
            finally:
                has_ended = True
                watching.cancel()
                if leaving is not None:
                    leaving.cancel()
    except TimeoutError as error:
        if not timing.is_computed:
            state.metrics.count_dropped("client_gone" if has_left else "deadline")
        if has_left:
            raise ClientDisconnect from error
        detail = f"No answer within {state.settings.request_timeout_s:g} s: try again later, or send fewer images."
        raise ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": str(state.door.wait_s())}) from error


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != DISCONNECTED:
        pass


async def _answer(
    state: State, uploads: list[Upload], overrides: Overrides, neighbors: int, deadline: float, timing: Timing
) -> tuple[Reply, list[Answer | Exception]]:
    """The reply for those images that can be decoded, and what came of each image sent, in order."""
    predictor = state.batcher.predictor
    size = predictor.bundle.engine.size
    started = time.perf_counter()
    if len(uploads) == 1:
        decoded = [await _decode(state, uploads[0], size, is_alone=True)]
    else:
        decoded = await asyncio.gather(*(_decode(state, upload, size) for upload in uploads))
    timing.decode += time.perf_counter() - started
    images = [item for item in decoded if not isinstance(item, Exception)]
    if images:
        reply = await state.batcher.submit(np.stack(images), overrides, neighbors, deadline=deadline, timing=timing)
    else:
        reply = Reply(predictor, predictor.parameters(*overrides), [])
    answers = iter(reply.answers)
    return reply, [item if isinstance(item, Exception) else next(answers) for item in decoded]


async def _decode(
    state: State, upload: Upload, size: tuple[int, int], *, is_alone: bool = False
) -> NDArray[np.uint8] | Exception:
    if isinstance(upload.content, Exception):
        return upload.content
    pixels = state.settings.max_pixels
    image = None
    started = time.perf_counter()
    try:
        if is_alone and len(upload.content) <= SMALL_BYTES and not any(c in upload.content for c in _COMPRESSED_CHUNKS):
            with suppress(ImageTooLargeError):  # of few bytes, but not small
                image = decode(upload.content, size, Limits(min(pixels, SMALL_PIXELS)))
        if image is None:
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(state.decoders, decode, upload.content, size, Limits(pixels))
        state.metrics.observe_stage("decode", time.perf_counter() - started)
        return image
    except ImageError as error:
        return error


def _server_timing(timing: Timing) -> str:
    """The header's value (W3C Server Timing): milliseconds, those of the batch for all of its images."""
    batch = timing.batch
    spent = (
        ("decode", timing.decode),
        ("queue", timing.queue),
        ("encode", batch.encode),
        ("search", batch.search),
        ("vote", batch.vote),
    )
    return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in spent)

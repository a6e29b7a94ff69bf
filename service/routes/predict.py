"""``POST /v1/predict``: let in, receive, decode, queue, answer."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from secondlook.model.answering.doubt import COVERAGES, check_coverage
from secondlook.model.answering.predictor import MAX_NEIGHBORS, Answer
from secondlook.model.cache import MAX_THETA, check_parameters
from secondlook.model.errors import ImageError
from secondlook.model.images import Limits
from secondlook.service.batching.batcher import Overrides, Reply, Timing
from secondlook.service.decoding.jobs import Spending
from secondlook.service.errors import SizeChangedError
from secondlook.service.http.auth import OPTIONAL, require_predict
from secondlook.service.problems import Kind, ProblemError, documented, of_image, of_validation
from secondlook.service.reasons import MAX_VOTES
from secondlook.service.routes.receive import FIELD, Upload, announced_bytes, read_uploads
from secondlook.service.routes.write import written
from secondlook.service.schemas import Predictions, Wanted
from secondlook.service.state import State

PATH = "/v1/predict"
DISCONNECTED = "http.disconnect"
SHARE_OF_TIME = 0.8
"""Of a request's time, after which what is not decoded is given up: the others of its images are to be answered."""
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
                "additionalProperties": False,
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
        request.app.state.known_parameters.check_query(scope)
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
        Kind.IMAGE_TOO_SLOW,
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
    with state.admission.admit(announced_bytes(request)) as ticket:
        try:
            uploads = await read_uploads(request, state.settings, ticket)
        except ClientDisconnect:
            state.metrics.count_dropped("client_gone")
            raise
        overrides = Overrides(theta, lam, k)
        reply, results, _ = await answer_in_time(request, state, uploads, overrides, nearest, timing)
    state.metrics.count_results(results)
    if len(results) == 1 and isinstance(results[0], Exception):
        raise of_image(results[0], uploads[0].filename)
    body = await written(reply, results, [upload.filename for upload in uploads], wanted)
    return Response(body, media_type="application/json", headers={"Server-Timing": _server_timing(timing)})


class Answered(NamedTuple):
    """What came of a request's images."""

    reply: Reply
    results: list[Answer | Exception]
    images: NDArray[np.uint8]
    """(n,height,width,3) as they were decoded; arbitrary pixels where one was not."""


class _Ending(NamedTuple):
    """What a request may still take."""

    deadline: float
    """Of ``time.monotonic()``, as the next one."""
    decoded_by: float
    spending: Spending


async def answer_in_time(
    request: Request,
    state: State,
    uploads: list[Upload],
    overrides: Overrides,
    neighbors: int,
    timing: Timing,
) -> Answered:
    """The answer, unless the client leaves first or its time is over.

    Raises:
        ClientDisconnect: the client left.
        ProblemError: its time is over.
    """
    now, seconds = time.monotonic(), state.settings.request_timeout_s
    ending = _Ending(now + seconds, now + SHARE_OF_TIME * seconds, state.decoders.spending(len(uploads)))
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
        async with asyncio.timeout(seconds) as limit:
            try:
                return await _answer(state, uploads, overrides, neighbors, ending, timing)
            except SizeChangedError:
                return await _answer(state, uploads, overrides, neighbors, ending, timing)
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
        raise _late(state) from error


def _late(state: State) -> ProblemError:
    detail = f"No answer within {state.settings.request_timeout_s:g} s: try again later, or send fewer images."
    return ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": str(state.admission.wait_s())})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != DISCONNECTED:
        pass


async def _answer(
    state: State,
    uploads: list[Upload],
    overrides: Overrides,
    neighbors: int,
    ending: _Ending,
    timing: Timing,
) -> Answered:
    """The reply for those images that can be decoded, and what came of each image sent, in order."""
    predictor = state.batcher.predictor
    images = np.empty((len(uploads), *predictor.bundle.engine.size, 3), np.uint8)
    started = time.perf_counter()
    if len(uploads) == 1:
        failed = [await _decode(state, uploads[0], images[0], ending)]
    else:
        decoding = (_decode(state, upload, image, ending) for upload, image in zip(uploads, images, strict=True))
        failed = await asyncio.gather(*decoding)
    timing.decode += time.perf_counter() - started
    good = images if not any(failed) else images[[error is None for error in failed]]
    if len(good):
        reply = await state.batcher.submit(good, overrides, neighbors, deadline=ending.deadline, timing=timing)
    else:
        reply = Reply(predictor, predictor.parameters(*overrides), [])
    answers = iter(reply.answers)
    return Answered(reply, [next(answers) if error is None else error for error in failed], images)


async def _decode(state: State, upload: Upload, out: NDArray[np.uint8], ending: _Ending) -> Exception | None:
    """Decode an image into ``out`` (height,width,3); what is wrong with it."""
    if isinstance(upload.content, Exception):
        return upload.content
    limits = Limits(state.settings.max_pixels)
    started = time.perf_counter()
    try:
        await state.decoders.decode(upload.content, out, limits, ending.spending, ending.decoded_by)
    except ImageError as error:
        return error
    except TimeoutError:
        return _late(state)
    state.metrics.observe_stage("decode", time.perf_counter() - started)
    return None


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

"""``POST /v1/predict``: receive, decode, queue, answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from pydantic import BeforeValidator, WithJsonSchema
from starlette.requests import ClientDisconnect

from model.cache import check_parameters
from model.errors import ImageError
from model.images import Limits, decode
from model.predictor import MAX_NEIGHBORS, Answer
from service.batcher import Overrides, Reply
from service.errors import SizeChangedError
from service.problems import Kind, ProblemError, documented, of_image
from service.schemas import Predictions, prediction
from service.state import Running, State
from service.uploads import FIELD, Upload, read_uploads

router = APIRouter(tags=["predict"])
T = TypeVar("T")

_BINARY = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "description": "JPEG, PNG, WebP, GIF (its first frame) or BMP.",
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
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "all"}]}),
]


@router.post(
    "/v1/predict",
    summary="Say what images show",
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses=documented(
        Kind.UNDECODABLE_IMAGE,
        Kind.MALFORMED_REQUEST,
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
async def predict(
    request: Request,
    state: Running,
    top: Annotated[int, Query(ge=1, le=1000, description="Classes listed.")] = 5,
    neighbors: Annotated[int, Query(ge=0, le=MAX_NEIGHBORS, description="Nearest entries listed.")] = 0,
    lam: Annotated[
        float | None,
        Query(
            description="Weight of the cache, instead of the model's own.",
            json_schema_extra={"minimum": 0, "maximum": 1},
        ),
    ] = None,
    theta: Annotated[
        float | None,
        Query(
            description="Sharpness of the vote, instead of the model's own.", json_schema_extra={"exclusiveMinimum": 0}
        ),
    ] = None,
    k: Annotated[K | None, Query(description="How many entries vote, or all, instead of the model's own.")] = None,
) -> Predictions:
    """Send one image or more in the multipart field `file`, or one as a raw body of type `image/*`.

    An image that fails has a problem document in its place, the others are answered; a single image's problem is the
    response itself.
    """
    check_parameters(1.0 if theta is None else theta, 0.0 if lam is None else lam, None if k == "all" else k)
    uploads = await read_uploads(request, state.settings)
    reply, results = await _while_connected(request, _within_time(state, uploads, Overrides(theta, lam, k), neighbors))
    if len(results) == 1 and isinstance(results[0], Exception):
        raise of_image(results[0], uploads[0].filename)
    return Predictions(
        generation=reply.predictor.bundle.manifest.generation,
        lam=reply.parameters.lam,
        theta=reply.parameters.theta,
        k=reply.parameters.k,
        predictions=[
            of_image(result, upload.filename).problem
            if isinstance(result, Exception)
            else prediction(reply.predictor, result, upload.filename, top)
            for upload, result in zip(uploads, results, strict=True)
        ],
    )


async def _within_time(
    state: State, uploads: list[Upload], overrides: Overrides, neighbors: int
) -> tuple[Reply, list[Answer | Exception]]:
    try:
        async with asyncio.timeout(state.settings.request_timeout_s):
            try:
                return await _answer(state, uploads, overrides, neighbors)
            except SizeChangedError:
                return await _answer(state, uploads, overrides, neighbors)
    except TimeoutError as error:
        detail = f"No answer within {state.settings.request_timeout_s:g} s: try again later, or send fewer images."
        raise ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": "5"}) from error


async def _answer(
    state: State, uploads: list[Upload], overrides: Overrides, neighbors: int
) -> tuple[Reply, list[Answer | Exception]]:
    """The reply for those images that can be decoded, and what came of each image sent, in order."""
    predictor = state.batcher.predictor
    decoded = await asyncio.gather(*(_decode(state, upload, predictor.bundle.engine.size) for upload in uploads))
    images = [item for item in decoded if not isinstance(item, Exception)]
    if images:
        reply = await state.batcher.submit(np.stack(images), overrides, neighbors)
    else:
        reply = Reply(predictor, predictor.parameters(*overrides), [])
    answers = iter(reply.answers)
    return reply, [item if isinstance(item, Exception) else next(answers) for item in decoded]


async def _decode(state: State, upload: Upload, size: tuple[int, int]) -> NDArray[np.uint8] | Exception:
    if isinstance(upload.content, Exception):
        return upload.content
    limits = Limits(state.settings.max_pixels)
    try:
        return await asyncio.get_running_loop().run_in_executor(state.decoders, decode, upload.content, size, limits)
    except ImageError as error:
        return error


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless the client leaves first: then it is cancelled.

    Raises:
        ClientDisconnect: the client left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

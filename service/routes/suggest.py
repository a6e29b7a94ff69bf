"""``POST /v1/suggest``: in which order to label images, by what ``/v1/embed`` gave of them."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Header, Query, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from secondlook.curation.audit import SIMILAR
from secondlook.curation.suggest import COUNT, Reason, Suggestions, suggest
from secondlook.model.answering.predictor import Predictor
from secondlook.model.errors import ParameterError
from secondlook.service.http.admission import Ticket
from secondlook.service.http.auth import OPTIONAL, require_predict
from secondlook.service.problems import Kind, ProblemError, clean, documented
from secondlook.service.routes.answer import too_late
from secondlook.service.routes.receive import announced_bytes
from secondlook.service.state import Running

BYTES = "application/octet-stream"
MOST_IMAGES = 2000
"""In one call: two seconds of a core, beside 100,000 entries."""
MOST = 100
"""Suggested at once."""
UNIT_TOLERANCE = 0.05
"""How far from 1 keys' lengths may be, as those of reduced precision are."""

router = APIRouter(tags=["predict"])


class SuggestionInfo(BaseModel):
    """An image to label, and why."""

    place: int = Field(description="Of its row in the body, from 0.")
    reason: Reason
    why: str = Field(description="The same in words.")
    like: int = Field(description="Of how many of the images it is typical, itself among them.")
    labels: list[str] = Field(description="What it may show, the most probable first: two at most.")
    margin: float | None = Field(description="By how much the first is more probable; null where there are not two.")
    similarity: float | None = Field(description="To the nearest entry; null where there is none.")


class SuggestedOrder(BaseModel):
    """Which images to label, in this order."""

    generation: str
    suggested: list[SuggestionInfo]
    images: int = Field(description="That were sent.")
    known: int = Field(description="Of those, nearly the same as an entry.")
    alike: int = Field(description="Of those, nearly the same as one that is suggested.")


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Rows of float32, little endian, as `/v1/embed?logits=true` gives them with "
        f"`Accept: {BYTES}`: an image's key, then its logits, of which there are none where the network has no head.",
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "/v1/suggest",
    summary="Say which images to label next",
    dependencies=[Depends(require_predict)],
    openapi_extra={**_BODY, **OPTIONAL},
    responses=documented(
        Kind.MALFORMED_REQUEST,
        Kind.KEY_MISSING,
        Kind.KEY_REFUSED,
        Kind.GENERATION_CHANGED,
        Kind.TOO_MANY_BYTES,
        Kind.NOT_BYTES,
        Kind.INVALID_PARAMETER,
        Kind.QUEUE_FULL,
        Kind.INTERNAL,
        Kind.NOT_READY,
        Kind.TOO_SLOW,
    ),
)
async def suggest_order(
    request: Request,
    state: Running,
    x_shape: Annotated[
        str,
        Header(
            pattern="^[0-9]{1,9},[0-9]{1,9}$",
            description=f"How many images, {MOST_IMAGES:,} at most, and numbers of each, as `N,D`.",
        ),
    ],
    x_generation: Annotated[
        str | None, Header(description="Which bundle the numbers are of; refused where another one answers now.")
    ] = None,
    count: Annotated[int, Query(ge=1, le=MOST, description="How many at most.")] = COUNT,
    similar: Annotated[
        float, Query(gt=0, le=1, description="Cosine of two keys from which on images are nearly the same.")
    ] = SIMILAR,
) -> SuggestedOrder:
    """Send what is embedded of images that nobody has labelled; get those whose labels would teach most, and why.

    While little is known, those come first that are typical of many like which none is known; then those that are
    hardest to tell, spread over what they show. What is nearly an entry, or nearly one that is suggested, is left out.
    Ask again after each ten or so: what was taught meanwhile changes the order.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != BYTES:
        named = f"is {clean(media_type)}" if media_type else "is missing"
        raise ProblemError(Kind.NOT_BYTES, f"The content type {named}: send {BYTES}, as /v1/embed gives it.")
    rows, width = map(int, x_shape.split(","))
    if not 1 <= rows <= MOST_IMAGES:
        raise ParameterError(f"X-Shape: it says {rows:,} images, 1 to {MOST_IMAGES:,} are taken: send some of them")
    with state.admission.admit(announced_bytes(request)) as ticket:
        predictor = await state.current()
        _check_shape(predictor, width, x_generation)
        numbers = await _receive(request, ticket, rows, width)
        predictor = await state.current()  # sending may have taken a while
        _check_shape(predictor, width, x_generation)
        try:
            async with asyncio.timeout(state.settings.request_timeout_s):
                found = await asyncio.get_running_loop().run_in_executor(
                    state.suggesting, _suggested, predictor, numbers, count, similar
                )
        except TimeoutError as error:
            raise too_late(state) from error
    return SuggestedOrder(generation=predictor.bundle.manifest.generation, **found.as_dict())


def _check_shape(predictor: Predictor, width: int, generation: str | None) -> None:
    """Refuse what was not embedded by what answers."""
    engine, manifest = predictor.bundle.engine, predictor.bundle.manifest
    if generation is not None and generation != manifest.generation:
        raise ProblemError(
            Kind.GENERATION_CHANGED,
            f"Generation {clean(generation)} does not answer any more: embed the images again.",
        )
    if width != engine.dim + engine.classes:
        logits = f" and {engine.classes:,} logits" if engine.classes else ""
        raise ParameterError(
            f"X-Shape: it says {width:,} numbers of each image, here they are {engine.dim:,} of its key{logits}: send "
            "what POST /v1/embed?logits=true gives"
        )


async def _receive(request: Request, ticket: Ticket, rows: int, width: int) -> NDArray[np.float32]:
    """The body as (rows,width)."""
    wanted = 4 * rows * width
    body = bytearray()
    async for chunk in request.stream():
        ticket.add(received=len(chunk))
        body += chunk
        if len(body) > wanted:
            break
    if len(body) != wanted:
        more = "more" if len(body) > wanted else f"{len(body):,}"
        raise ParameterError(f"X-Shape: {rows},{width} are {wanted:,} bytes, and the body has {more}")
    return np.frombuffer(body, "<f4").astype(np.float32, copy=False).reshape(rows, width)


def _suggested(predictor: Predictor, numbers: NDArray[np.float32], count: int, similar: float) -> Suggestions:
    finite = np.isfinite(numbers).all(axis=1)
    if not finite.all():
        raise ParameterError(f"the body: row {int(finite.argmin())} has a number that is not finite")
    dim = predictor.bundle.engine.dim
    keys, logits = np.ascontiguousarray(numbers[:, :dim]), np.ascontiguousarray(numbers[:, dim:])
    lengths = np.linalg.norm(keys.astype(np.float64), axis=1)
    off = int(np.abs(lengths - 1).argmax())
    if not math.isclose(lengths[off], 1, abs_tol=UNIT_TOLERANCE):
        raise ParameterError(f"the body: row {off} is no key: its length is {lengths[off]:.3g}, and not 1")
    return suggest(predictor, keys, logits, count=count, similar=similar)

"""A request's images to answers, within the request's time: decoded, then computed in batches with others'."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from secondlook.model.answering.predictor import Outcome
from secondlook.model.errors import ImageError
from secondlook.model.images import Geometry, Limits
from secondlook.service.batching.turns import Asked, Reply, Timing, wanted
from secondlook.service.decoding.jobs import Spending
from secondlook.service.errors import GeometryChangedError
from secondlook.service.problems import Kind, ProblemError
from secondlook.service.routes.receive import Upload
from secondlook.service.state import State

DISCONNECTED = "http.disconnect"
SHARE_OF_TIME = 0.8
"""Of a request's time, after which what is not decoded is given up: the others of its images are to be answered."""
WATCH_AFTER_S = 0.1
"""From then on it is watched whether the client is still there: most are answered before, and watching has a price."""


class Answered(NamedTuple):
    """What came of a request's images."""

    reply: Reply
    results: list[Outcome | Exception]
    """One for each image sent, in order."""
    images: NDArray[np.uint8]
    """(n,height,width,3) as they were decoded; arbitrary pixels where one was not."""


class _Ending(NamedTuple):
    """What a request may still take."""

    deadline: float
    """Of ``time.monotonic()``, as the next one."""
    decoded_by: float
    spending: Spending


async def answer(
    request: Request, state: State, uploads: list[Upload], asked: Asked, neighbors: int, timing: Timing
) -> Answered:
    """Answer a request's images, unless the client leaves first or its time is over.

    ``neighbors`` is how many of the nearest entries each prediction lists. What each stage takes is added to
    ``timing``.

    Raises:
        ClientDisconnect: the client left.
        ProblemError: its time is over.
        ParameterError: the store cannot serve that k.
        UnavailableError: nothing is decoded or computed now.
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
                while True:  # once more for each switch meanwhile
                    with suppress(GeometryChangedError):
                        return await _decode_and_compute(state, uploads, asked, neighbors, ending, timing)
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
        raise too_late(state) from error


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != DISCONNECTED:
        pass


async def _decode_and_compute(
    state: State, uploads: list[Upload], asked: Asked, neighbors: int, ending: _Ending, timing: Timing
) -> Answered:
    predictor = state.batcher.predictor
    geometry = predictor.bundle.geometry
    # Decoders write here, and a batch of this request alone is computed from here.
    images = np.empty((len(uploads), *geometry.size, 3), np.uint8)
    started = time.perf_counter()
    if len(uploads) == 1:
        failed = [await _decode(state, uploads[0], images[0], geometry, ending)]
    else:
        decoding = (
            _decode(state, upload, image, geometry, ending) for upload, image in zip(uploads, images, strict=True)
        )
        failed = await asyncio.gather(*decoding)
    timing.decode += time.perf_counter() - started
    good = images if not any(failed) else images[[error is None for error in failed]]
    if len(good):
        reply = await state.batcher.submit(good, geometry, asked, neighbors, deadline=ending.deadline, timing=timing)
    else:
        reply = Reply(predictor, wanted(asked, predictor), [])
    answers = iter(reply.answers)
    return Answered(reply, [next(answers) if error is None else error for error in failed], images)


async def _decode(
    state: State, upload: Upload, out: NDArray[np.uint8], geometry: Geometry, ending: _Ending
) -> Exception | None:
    """Decode an image into ``out`` (height,width,3); what is wrong with it."""
    if isinstance(upload.content, Exception):
        return upload.content
    limits = Limits(state.settings.max_pixels)
    started = time.perf_counter()
    try:
        await state.decoders.decode(upload.content, out, geometry, limits, ending.spending, ending.decoded_by)
    except ImageError as error:
        return error
    except TimeoutError:
        return too_late(state)
    state.metrics.observe_stage("decode", time.perf_counter() - started)
    return None


def too_late(state: State) -> ProblemError:
    """What a request is told whose time is over."""
    detail = f"No answer within {state.settings.request_timeout_s:g} s: try again later, or send fewer images."
    return ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": str(state.admission.wait_s())})

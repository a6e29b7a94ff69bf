"""Requests to batches and back: one owner task, one compute thread.

A request that finds the thread idle is computed at once; while the thread is busy, requests gather and go together as
the next batch. So there is no waiting window to tune: batches grow with the load.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.predictor import Answer, Parameters, Predictor
from service.errors import QueueFullError, SizeChangedError, UnavailableError

logger = logging.getLogger(__name__)


class Overrides(NamedTuple):
    """What a request asks in place of the bundle's own parameters; None = as the bundle says."""

    theta: float | None = None
    lam: float | None = None
    k: int | Literal["all"] | None = None


NO_OVERRIDES = Overrides()


class Reply(NamedTuple):
    """A request's answers, all from one generation."""

    predictor: Predictor
    """Which gave them."""
    parameters: Parameters
    """Under which they were given."""
    answers: list[Answer | Exception]
    """One for each image; an image that failed has its error here."""


@dataclass(eq=False, frozen=True)
class _Request:
    images: NDArray[np.uint8]
    overrides: Overrides
    neighbors: int
    reply: asyncio.Future[Reply]


class Batcher:
    """Answers requests with ``predictor``, which may be replaced at any time: each batch reads it once."""

    def __init__(self, predictor: Predictor, *, max_batch: int, max_queue: int) -> None:
        self.predictor = predictor
        self._max_batch, self._max_queue = max_batch, max_queue
        self._waiting: deque[_Request] = deque()
        self._computing: list[_Request] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._owner: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether requests are being answered."""
        return self._owner is not None and not self._owner.done()

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._owner = asyncio.get_running_loop().create_task(self._run(), name="batcher")
        self._owner.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop; whoever still waits gets an error."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.wait((self._owner,))
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, images: NDArray[np.uint8], overrides: Overrides = NO_OVERRIDES, neighbors: int = 0) -> Reply:
        """Answer for one request's images (n,height,width,3), n >= 1, each with its nearest ``neighbors`` entries.

        Cancelling the call drops the request, at no cost if it still waits.

        Raises:
            QueueFullError: others wait, and with these there would be too many.
            SizeChangedError: the images do not have the input size of the encoder that is to answer.
            ParameterError: an override is out of its range.
            UnavailableError: the batcher does not run, or stops before the answer.
        """
        if not self.is_running:
            raise _unavailable()
        waiting = sum(len(request.images) for request in self._waiting if not request.reply.done())
        if waiting and waiting + len(images) > self._max_queue:
            raise QueueFullError(f"{waiting} images are waiting already: try again in a moment")
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(images, overrides, neighbors, reply))
        self._arrived.set()
        return await reply

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                # In a call of its own: an idle batcher must hold neither images nor a predictor that was replaced.
                await self._answer_next()

    async def _answer_next(self) -> None:
        self._computing = self._take()
        if not self._computing:
            return
        outcomes = await asyncio.get_running_loop().run_in_executor(
            self._thread, _answer, self.predictor, self._computing, self._max_batch
        )
        for request, outcome in zip(self._computing, outcomes, strict=True):
            if request.reply.done():
                continue
            if isinstance(outcome, Exception):
                request.reply.set_exception(outcome)
            else:
                request.reply.set_result(outcome)
        self._computing = []

    def _take(self) -> list[_Request]:
        """Waiting requests in order, of at most ``max_batch`` images; a larger request goes alone."""
        taken: list[_Request] = []
        images = 0
        while self._waiting:
            request = self._waiting[0]
            if request.reply.done():  # its client has left
                self._waiting.popleft()
                continue
            if taken and images + len(request.images) > self._max_batch:
                break
            taken.append(self._waiting.popleft())
            images += len(request.images)
        return taken

    def _ended(self, owner: asyncio.Task[None]) -> None:
        if not owner.cancelled():
            logger.critical("the batching task died; no more answers", exc_info=owner.exception())
        for request in (*self._computing, *self._waiting):
            if not request.reply.done():
                request.reply.set_exception(_unavailable())
        self._computing = []
        self._waiting.clear()


def _unavailable() -> UnavailableError:
    return UnavailableError("the server does not compute answers now: try again later")


def _answer(predictor: Predictor, requests: Sequence[_Request], max_batch: int) -> list[Reply | Exception]:
    """Compute a batch, in the compute thread."""
    accepted: list[tuple[_Request, Parameters]] = []
    refused: dict[_Request, Exception] = {}
    for request in requests:
        try:
            if request.images.shape[1:3] != predictor.bundle.engine.size:
                raise SizeChangedError("another generation took over while the images were decoded: try again")
            accepted.append((request, predictor.parameters(*request.overrides)))
        except Exception as error:
            refused[request] = error
    replies: dict[_Request, Reply] = {}
    if accepted:
        images = np.concatenate([request.images for request, _ in accepted])
        asked = [parameters for request, parameters in accepted for _ in request.images]
        neighbors = max(request.neighbors for request, _ in accepted)
        answers: list[Answer | Exception] = []
        for first in range(0, len(images), max_batch):
            part = slice(first, first + max_batch)
            answers += _predict(predictor, images[part], asked[part], neighbors)
        done = 0
        for request, parameters in accepted:
            own = answers[done : done + len(request.images)]
            replies[request] = Reply(predictor, parameters, [_with_neighbors(a, request.neighbors) for a in own])
            done += len(request.images)
    return [refused[request] if request in refused else replies[request] for request in requests]


def _predict(
    predictor: Predictor, images: NDArray[np.uint8], asked: Sequence[Parameters], neighbors: int
) -> list[Answer | Exception]:
    """Predict; if that fails, once more for each image alone, so that only the bad one fails."""
    try:
        return [*predictor.predict(images, asked, neighbors)]
    except Exception as error:
        logger.warning("a batch of %d failed", len(images), exc_info=True)
        if len(images) == 1:
            return [error]
    return [_predict(predictor, images[i : i + 1], asked[i : i + 1], neighbors)[0] for i in range(len(images))]


def _with_neighbors(answer: Answer | Exception, count: int) -> Answer | Exception:
    if isinstance(answer, Exception):
        return answer
    return replace(
        answer,
        ids=answer.ids[:count],
        values=answer.values[:count],
        similarities=answer.similarities[:count],
        weights=answer.weights[:count],
    )

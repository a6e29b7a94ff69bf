"""Requests to batches and back: one thread computes, and takes its batches itself.

A request that finds the thread idle is computed at once; while the thread is busy, requests gather and go together as
the next batch. So there is no waiting window to tune: batches grow with the load. How many may wait is the door's to
say (``service.door``). The thread goes from one batch to the next without asking the event loop, which under load has
answers to write first: a task that handed it each batch left it idle for a third of the time.

If the thread dies, all who wait are told at once, and it is started anew a second later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import StoreAwayError
from model.lookup import Spent
from model.predictor import Answer, Parameters, Predictor
from service.compute import ComputeThread
from service.errors import SizeChangedError, UnavailableError
from service.metrics import Metrics

logger = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Between a death and the new start: not ready meanwhile, and a predictor that dies each time does not spin."""
DELIVERED_AT_ONCE = 8
"""Replies given in one round of the event loop."""
STOP_SECONDS = 10.0
"""How long closing waits for the batch that is being computed."""


class Overrides(NamedTuple):
    """What a request asks in place of the bundle's own parameters; None = as the bundle says."""

    theta: float | None = None
    lam: float | None = None
    k: int | Literal["all"] | None = None


NO_OVERRIDES = Overrides()


@dataclass
class Timing:
    """Seconds that a request spends in each stage; those of its batch are counted in full."""

    decode: float = 0.0
    queue: float = 0.0
    batch: Spent = field(default_factory=Spent)
    is_computed: bool = False
    """Whether it cost a forward pass, or is about to."""


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
    deadline: float
    timing: Timing
    reply: asyncio.Future[Reply]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Answers requests with ``predictor``, which may be replaced at any time: each batch reads it once."""

    def __init__(self, predictor: Predictor, *, max_batch: int, metrics: Metrics | None = None) -> None:
        self.predictor = predictor
        self.restarts = 0
        """How often the thread died."""
        self._metrics = metrics or Metrics()
        self._max_batch = max_batch
        self._waiting: deque[_Request] = deque()
        self._taking = threading.Lock()
        """Held while requests are taken out, or looked through."""
        self._computing: list[_Request] = []
        self._began = 0.0
        self._thread: ComputeThread | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def is_running(self) -> bool:
        """Whether requests are being answered."""
        return self._thread is not None and not self._thread.ended.done()

    @property
    def waiting(self) -> int:
        """How many images wait."""
        with self._taking:
            return sum(len(request.images) for request in self._waiting if not request.reply.done())

    @property
    def oldest_s(self) -> float:
        """For how many seconds the first of them has been waiting."""
        with self._taking:
            oldest = next((request.arrived for request in self._waiting if not request.reply.done()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    @property
    def computing_s(self) -> float:
        """For how many seconds the batch at hand has been computed; 0 where there is none."""
        return time.monotonic() - self._began if self._computing else 0.0

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._begin()
        self._supervisor = self._loop.create_task(self._supervise(), name="supervisor")

    async def close(self) -> None:
        """Stop; whoever still waits gets an error."""
        if self._supervisor is None or self._thread is None:
            return
        self._supervisor.cancel()
        await asyncio.wait((self._supervisor,))
        self._tell_all()
        self._thread.stop()
        await asyncio.wait((self._thread.ended,), timeout=STOP_SECONDS)

    def _begin(self) -> None:
        thread = ComputeThread(self._compute)
        thread.start()
        thread.ended.add_done_callback(lambda _: self._tell_all())
        self._thread = thread

    async def _supervise(self) -> None:
        while True:
            assert self._thread is not None
            await asyncio.wait((self._thread.ended,))
            logger.critical("no answers are computed; that starts anew in %g s", RESTART_SECONDS)
            self.restarts += 1
            self._metrics.count_restart()
            await asyncio.sleep(RESTART_SECONDS)
            try:
                self._begin()
            except RuntimeError:  # no thread can be started: the next round tries again
                logger.exception("the compute thread cannot start")
            else:
                logger.warning("answers are computed again")

    async def submit(
        self,
        images: NDArray[np.uint8],
        overrides: Overrides = NO_OVERRIDES,
        neighbors: int = 0,
        *,
        deadline: float = math.inf,
        timing: Timing | None = None,
    ) -> Reply:
        """Answer for one request's images (n,height,width,3), n >= 1, each with its nearest ``neighbors`` entries.

        Cancelling the call drops the request, at no cost if it still waits. One that still waits at its deadline
        (of ``time.monotonic()``) is dropped too. What it spends is added to ``timing``.

        Raises:
            TimeoutError: the deadline passed before it was computed.
            SizeChangedError: the images do not have the input size of the encoder that is to answer.
            ParameterError: an override is out of its range.
            UnavailableError: the batcher does not run, or stops before the answer.
        """
        if self._thread is None or self._thread.ended.done():
            raise _unavailable()
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append(_Request(images, overrides, neighbors, deadline, timing or Timing(), reply))
        self._thread.wake()
        return await reply

    def _compute(self) -> None:
        """Answer all who wait, a batch at a time. Everything from here to ``_hand`` runs in the compute thread."""
        # Each batch in a call of its own: an idle thread must hold neither images nor a predictor that was replaced.
        while self._compute_next():
            pass

    def _compute_next(self) -> bool:
        batch = self._take()
        if not batch:
            return False
        outcomes: list[Reply | Exception]
        try:
            outcomes = _answer(self.predictor, batch, self._max_batch, self._metrics)
        except Exception as error:  # such as of memory, before the predictor was asked
            logger.exception("a batch failed")
            outcomes = [error] * len(batch)
        self._computing = []
        self._hand(deque(zip(batch, outcomes, strict=True)))
        return True

    def _take(self) -> list[_Request]:
        """Waiting requests in order, of at most ``max_batch`` images; a larger request goes alone."""
        taken: list[_Request] = []
        late: deque[tuple[_Request, Reply | Exception]] = deque()
        images = 0
        now = time.monotonic()
        with self._taking:
            while self._waiting:
                request = self._waiting[0]
                if request.reply.done():  # its client has left
                    self._waiting.popleft()
                    continue
                if request.deadline <= now:
                    late.append((self._waiting.popleft(), TimeoutError()))
                    continue
                if taken and images + len(request.images) > self._max_batch:
                    break
                taken.append(self._waiting.popleft())
                images += len(request.images)
            # From here on they are told if the thread dies.
            self._began, self._computing = now, taken
        for request in taken:
            request.timing.queue += now - request.arrived
            request.timing.is_computed = True
            self._metrics.observe_stage("queue", now - request.arrived)
        if late:
            self._hand(late)
        return taken

    def _hand(self, done: deque[tuple[_Request, Reply | Exception]]) -> None:
        """Give the event loop what to deliver."""
        with suppress(RuntimeError):  # it is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._deliver, done)

    def _deliver(self, done: deque[tuple[_Request, Reply | Exception]]) -> None:
        """Give some their replies, and the others theirs in the loop's next round.

        Each who gets one writes an answer at once: with 64 in one round, nobody else would be heard for that long.
        """
        for _ in range(min(DELIVERED_AT_ONCE, len(done))):
            request, outcome = done.popleft()
            if request.reply.done():
                continue
            if isinstance(outcome, Exception):
                request.reply.set_exception(outcome)
            else:
                request.reply.set_result(outcome)
        if done:
            self._loop.call_soon(self._deliver, done)

    def _tell_all(self) -> None:
        """Give all who wait an error: nothing is computed any more."""
        with self._taking:
            waiting = [*self._computing, *self._waiting]
            self._computing = []
            self._waiting.clear()
        for request in waiting:
            if not request.reply.done():
                request.reply.set_exception(_unavailable())


def _unavailable() -> UnavailableError:
    return UnavailableError("the server does not compute answers now: try again later")


def _answer(
    predictor: Predictor, requests: Sequence[_Request], max_batch: int, metrics: Metrics
) -> list[Reply | Exception]:
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
        spent = Spent()
        answers: list[Answer | Exception] = []
        for first in range(0, len(images), max_batch):
            part = slice(first, first + max_batch)
            answers += _predict(predictor, images[part], asked[part], neighbors, metrics, spent)
        done = 0
        for request, parameters in accepted:
            own = answers[done : done + len(request.images)]
            if away := [answer for answer in own if isinstance(answer, StoreAwayError)]:
                refused[request] = away[0]  # all of it: no image is to blame
            replies[request] = Reply(predictor, parameters, [_with_neighbors(a, request.neighbors) for a in own])
            done += len(request.images)
            request.timing.batch.add(spent)
    return [refused[request] if request in refused else replies[request] for request in requests]


def _predict(
    predictor: Predictor,
    images: NDArray[np.uint8],
    asked: Sequence[Parameters],
    neighbors: int,
    metrics: Metrics,
    total: Spent,
) -> list[Answer | Exception]:
    """Predict; if that fails, once more for each image alone, so that only the bad one fails."""
    try:
        spent = Spent()
        answers: list[Answer | Exception] = [*predictor.predict(images, asked, neighbors, spent)]
        metrics.observe_batch(len(images), spent)
        total.add(spent)
        return answers
    except StoreAwayError as error:  # which no image is to blame for
        return [error] * len(images)
    except Exception as error:
        logger.warning("a batch of %d failed", len(images), exc_info=True)
        if len(images) == 1:
            return [error]
    alone = (slice(i, i + 1) for i in range(len(images)))
    return [_predict(predictor, images[one], asked[one], neighbors, metrics, total)[0] for one in alone]


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

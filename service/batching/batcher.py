"""Requests to batches and back: one thread computes, and takes its batches itself.

A request that finds the thread idle is computed at once; while the thread is busy, requests gather and go together as
the next batch. So there is no waiting window to tune: batches grow with the load. How many may wait is admission's to
say (``http.admission``), and whose turn it is ``turns``'. The thread goes from one batch to the next without
asking the event loop, which under load has answers to write first: a task that handed it each batch left it idle for a
third of the time.

A large request is computed in parts, and others go in between. All its parts are answered by the predictor that
answered the first.

If the thread dies, all who wait are told at once, and it is started anew a second later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.predictor import NO_OVERRIDES, Predictor
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.cache import Floats
from secondlook.model.images import Geometry
from secondlook.service.batching.compute import compute, embed
from secondlook.service.batching.thread import ComputeThread
from secondlook.service.batching.turns import USUAL, Asked, Reply, Request, Timing, Turns
from secondlook.service.errors import UnavailableError
from secondlook.service.metrics import Metrics

logger = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Between a death and the new start: not ready meanwhile, and a predictor that dies each time does not spin."""
DELIVERED_AT_ONCE = 8
"""Replies given in one round of the event loop."""
STOP_SECONDS = 0.5
"""How long closing waits for the batch that is being computed: nobody is left who would get its answers."""


Renewal = Callable[[Predictor, bool], Predictor]
"""Gives a predictor that knows what has happened since, or the same; and whether somebody waits for just that."""


class Batcher:
    """Answers requests with ``predictor``, which may be replaced at any time: each batch reads it once.

    Before each batch, the thread that computes asks ``renew`` for a newer one. Nobody else runs the predictor's engine.
    """

    def __init__(self, predictor: Predictor, *, max_batch: int, metrics: Metrics | None = None) -> None:
        self._predictor = predictor
        self._replacing = threading.Lock()
        self.renew: Renewal | None = None
        self._asking: deque[asyncio.Future[None]] = deque()
        """Who waits for the predictor to be renewed."""
        self._encoding: deque[tuple[Predictor, NDArray[np.uint8], asyncio.Future[Floats]]] = deque()
        """Whose images are only to be embedded."""
        self.restarts = 0
        """How often the thread died."""
        self._metrics = metrics or Metrics()
        self._max_batch = max_batch
        self._turns = Turns(max_batch)
        self._computing: list[Request] = []
        self._began = 0.0
        self._timer = StageTimer()
        """On the batch at hand."""
        self._thread: ComputeThread | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def predictor(self) -> Predictor:
        """Which answers the next batch, unless it is renewed before."""
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Predictor) -> None:
        with self._replacing:
            self._predictor = predictor

    def replace(self, seen: Predictor, predictor: Predictor) -> bool:
        """Have another one answer, if it is still that one that does."""
        with self._replacing:
            if self._predictor is seen:
                self._predictor = predictor
            return self._predictor is predictor

    @property
    def is_running(self) -> bool:
        """Whether requests are being answered."""
        return self._thread is not None and not self._thread.ended.done()

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return self._turns.images

    @property
    def oldest_s(self) -> float:
        """For how many seconds the first request has been waiting of those of which nothing is computed yet."""
        return self._turns.oldest_s

    @property
    def computing_s(self) -> float:
        """For how many seconds the batch at hand has come no further; 0 where there is none."""
        return time.monotonic() - max(self._began, self._timer.seen) if self._computing else 0.0

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
        geometry: Geometry,
        asked: Asked = NO_OVERRIDES,
        neighbors: int = 0,
        *,
        deadline: float = math.inf,
        timing: Timing | None = None,
    ) -> Reply:
        """Say what is asked of one request's images (n,height,width,3), n >= 1.

        Each of its predictions comes with the nearest ``neighbors`` entries.

        Cancelling the call drops the request, at no cost if it still waits. One that still waits at its deadline
        (of ``time.monotonic()``) is dropped too. What it spends is added to ``timing``.

        Raises:
            TimeoutError: the deadline passed before it was computed.
            GeometryChangedError: the encoder that is to answer takes images of another geometry.
            ParameterError: an override is out of its range.
            UnavailableError: the batcher does not run, or stops before the answer.
        """
        if self._thread is None or self._thread.ended.done():
            raise _unavailable()
        reply: asyncio.Future[Reply] = self._loop.create_future()
        request = Request(images, geometry, asked, neighbors, deadline, timing or Timing(), reply)
        self._turns.add(request)
        self._thread.wake()
        try:
            return await reply
        finally:  # its images go with it, where its client has left
            self._turns.drop(request)

    async def renewed(self) -> None:
        """Have the predictor renewed, once the batch at hand is computed.

        Raises:
            UnavailableError: the batcher does not run, or stops before.
            Whatever renewing raises.
        """
        if self._thread is None or self._thread.ended.done():
            raise _unavailable()
        done: asyncio.Future[None] = self._loop.create_future()
        self._asking.append(done)
        self._thread.wake()
        await done

    async def keys(self, predictor: Predictor, images: NDArray[np.uint8]) -> Floats:
        """Keys (n,D) of images (n,height,width,3) by a predictor's encoder, once the batch at hand is computed.

        Raises:
            UnavailableError: the batcher does not run, or stops before.
            Whatever the engine raises.
        """
        if self._thread is None or self._thread.ended.done():
            raise _unavailable()
        done: asyncio.Future[Floats] = self._loop.create_future()
        self._encoding.append((predictor, images, done))
        self._thread.wake()
        return await done

    def _compute(self) -> None:
        """Answer all who wait, a batch at a time. Everything from here to ``_hand`` runs in the compute thread."""
        # Each batch in a call of its own: an idle thread must hold neither images nor a predictor that was replaced.
        while self._compute_next():
            pass

    def _compute_between(self) -> None:
        """Answer a batch of usual requests while a costly one goes on, which asks for that now and then."""
        outer = self._computing, self._began, self._timer
        self._compute_next(kind=USUAL)
        self._computing, self._began, self._timer = outer

    def _compute_next(self, kind: int | None = None) -> bool:
        self._renew()
        self._encode()
        batch, late = self._turns.take(self.predictor, kind)
        if late:
            self._hand(deque((request, TimeoutError()) for request in late))
        if not batch:
            return False
        now = time.monotonic()
        # From here on they are told if the thread dies.
        requests = [part.request for part in batch]
        is_costly = requests[0].kind != USUAL
        self._began, self._timer = now, StageTimer(between=self._compute_between if is_costly else None)
        self._computing = self._computing + requests
        for request in requests:
            if not request.timing.is_computed:
                request.timing.queue += now - request.arrived
                request.timing.is_computed = True
                self._metrics.observe_stage("queue", now - request.arrived)
        outcomes: dict[Request, Reply | Exception]
        try:
            outcomes = compute(batch, self.predictor, self._timer, self._turns, self._metrics)
        except Exception as error:  # such as of memory, before the predictor was asked
            logger.exception("a batch failed")
            outcomes = dict.fromkeys(requests, error)
        self._computing = []
        for request in outcomes:
            self._turns.drop(request)  # one that failed may have more images
        self._hand(deque(outcomes.items()))
        return True

    def _renew(self) -> None:
        """Have the newest predictor, and tell those who wait for it."""
        asking = list(self._asking)  # left there for the case that the thread dies of it
        error: Exception | None = None
        while self.renew is not None:
            seen = self.predictor
            try:
                fresh = self.renew(seen, bool(asking))
            except Exception as raised:  # said by those who ask; a batch is answered with what is known
                error = raised
                break
            if fresh is seen or self.replace(seen, fresh):
                break
        for _ in asking:
            self._asking.popleft()
        if asking:
            with suppress(RuntimeError):  # it is closed, and nobody waits
                self._loop.call_soon_threadsafe(_tell, asking, error)

    def _encode(self) -> None:
        """Embed what is only to be embedded."""
        while self._encoding:
            predictor, images, done = self._encoding[0]  # left there for the case that the thread dies of it
            error, keys = None, None
            try:
                keys = embed(predictor, images, self._max_batch)
            except Exception as raised:
                error = raised
            self._encoding.popleft()
            with suppress(RuntimeError):  # it is closed, and nobody waits
                self._loop.call_soon_threadsafe(_tell, [done], error, keys)

    def _hand(self, done: deque[tuple[Request, Reply | Exception]]) -> None:
        """Give the event loop what to deliver."""
        with suppress(RuntimeError):  # it is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._deliver, done)

    def _deliver(self, done: deque[tuple[Request, Reply | Exception]]) -> None:
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
        waiting = [*self._computing, *self._turns.drop_all()]
        self._computing = []
        _tell([self._asking.popleft() for _ in range(len(self._asking))], _unavailable())
        _tell([self._encoding.popleft()[2] for _ in range(len(self._encoding))], _unavailable())
        for request in waiting:
            if not request.reply.done():
                request.reply.set_exception(_unavailable())


def _tell(asking: Sequence[asyncio.Future[Any]], error: Exception | None, result: object = None) -> None:
    for done in asking:
        if done.done():
            continue
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)


def _unavailable() -> UnavailableError:
    return UnavailableError("the server does not compute answers now: try again later")

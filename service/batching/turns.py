"""Whose turn it is to be computed: requests go in parts, so that none keeps the others waiting for long.

A batch is to take TURN_S at most. It has as many images as that allows, which is learnt from the batches before: an
image for which all entries vote may cost a hundred times what it usually does, and so lets usual requests go in between
(``StageTimer.between``). The smallest request goes first, of those the one that came first: so one image waits for the
batch that is being computed, and not for all that came before it, and large requests end one after the other
(in turns, all of them would come to it late). Every OLDEST_AFTER batches the one that came first begins: a stream of
small ones shall not keep it from its end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.predictor import Outcome, Overrides, Predictor, Wanted
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.answering.wanted import Embed, Search
from secondlook.model.images import Geometry

TURN_S = 0.2
"""What one batch is to take. A single image may take longer, as it cannot be divided."""
OLDEST_AFTER = 4
"""Of so many batches, one is begun by the request that came first."""
USUAL = 0
"""The kind of requests that cost what most do."""
USUAL_K = 2048
"""A search for so many neighbours costs about as much as one for a few."""


Asked = Overrides | Embed | Search
"""What a request wants of its images: predictions, with some parameters replaced, or their keys or neighbours alone."""


def wanted(asked: Asked, predictor: Predictor) -> Wanted:
    """The same with the parameters that a predictor has itself.

    Raises:
        ParameterError: its store cannot serve that k, or its network has no head and lam is not 1.
    """
    return predictor.parameters(asked) if isinstance(asked, Overrides) else asked


@dataclass
class Timing:
    """Seconds that a request spends in each stage; those of its batches are counted in full."""

    decode: float = 0.0
    queue: float = 0.0
    batch: StageTimer = field(default_factory=StageTimer)
    is_computed: bool = False
    """Whether it cost a forward pass, or is about to."""


class Reply(NamedTuple):
    """A request's answers, all from one generation."""

    predictor: Predictor
    """Which gave them."""
    wanted: Wanted
    """What was asked for: predictions by these parameters, say."""
    answers: list[Outcome | Exception]
    """One for each image; an image that failed has its error here."""


@dataclass(eq=False)
class Request:
    """Images that wait, or are partly computed."""

    images: NDArray[np.uint8]
    geometry: Geometry
    """What they were decoded with."""
    asked: Asked
    neighbors: int
    deadline: float
    """Of ``time.monotonic()``."""
    timing: Timing
    reply: asyncio.Future[Reply]
    arrived: float = field(default_factory=time.monotonic)
    predictor: Predictor | None = None
    """Which answers all of it; None until its first part is computed."""
    wanted: Wanted | None = None
    answers: list[Outcome | Exception] = field(default_factory=list)
    taken: int = 0
    """How many of its images are computed, or being computed."""

    @property
    def left(self) -> int:
        """How many of its images nobody computes yet."""
        return len(self.images) - self.taken

    @property
    def kind(self) -> int:
        """Requests of one kind cost about the same by image, and are computed together."""
        k = self.asked.k if isinstance(self.asked, Overrides) else None
        if k == "all":
            return -1
        return k.bit_length() if k is not None and k > USUAL_K else USUAL


class Part(NamedTuple):
    """Some of a request's images."""

    request: Request
    images: NDArray[np.uint8]


class Turns:
    """Requests that wait, in the order in which they came; safe to use from several threads."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._waiting: list[Request] = []
        self._lock = threading.Lock()
        self._limits: dict[int, int] = {USUAL: max_batch}
        """Images in a batch, by kind."""
        self._alone: dict[int, float] = {}
        """Seconds that a single image took last, by kind."""
        self._batches = 0

    @property
    def images(self) -> int:
        """How many images wait."""
        with self._lock:
            return sum(request.left for request in self._waiting if not request.reply.done())

    @property
    def oldest_s(self) -> float:
        """For how many seconds the first of those has been waiting of which nothing is computed yet."""
        with self._lock:
            arrived = [r.arrived for r in self._waiting if not r.taken and not r.reply.done()]
        return time.monotonic() - min(arrived) if arrived else 0.0

    def add(self, request: Request) -> None:
        """Have a request wait."""
        with self._lock:
            self._waiting.append(request)

    def drop(self, request: Request) -> None:
        """Compute no more of a request."""
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)

    def drop_all(self) -> list[Request]:
        """Compute no more of anything; what waited."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return waiting

    def take(self, predictor: Predictor, kind: int | None = None) -> tuple[list[Part], list[Request]]:
        """The next batch, all of one kind and for one predictor; and the requests whose deadline has passed.

        ``predictor`` answers those that were not begun yet. ``kind`` is the only one that is wanted.
        """
        now = time.monotonic()
        with self._lock:
            live = [request for request in self._waiting if not request.reply.done()]
            late = [request for request in live if request.deadline <= now]
            live = [request for request in live if request.deadline > now]
            batch = self._choose([r for r in live if kind is None or r.kind == kind], predictor)
            for part in batch:
                part.request.taken += len(part.images)
            self._waiting = [request for request in live if request.left]
        return batch, late

    def _choose(self, live: list[Request], predictor: Predictor) -> list[Part]:
        if not live:
            return []
        self._batches += 1
        order = sorted(live, key=lambda request: len(request.images))
        first = live[0] if self._batches % OLDEST_AFTER == 0 else order[0]
        answering = first.predictor or predictor
        limit = room = self._limit(first.kind)
        batch: list[Part] = []
        for request in (first, *(other for other in order if other is not first)):
            if request.kind != first.kind or (request.predictor or predictor) is not answering:
                continue
            # What fits into a batch is not divided, only to fill one up.
            if request.left > room and (batch and request.left <= limit):
                continue
            some = request.images[request.taken : request.taken + room]
            batch.append(Part(request, some))
            room -= len(some)
            if not room:
                break
        return batch

    def _limit(self, kind: int) -> int:
        return self._limits.get(kind, 1)

    def took(self, kind: int, images: int, seconds: float) -> None:
        """Learn from a batch of that kind, which had so many images and took so long."""
        with self._lock:
            limit = self._limit(kind)
            if images == 1:
                self._alone[kind] = seconds
            # Where most of it is the same for one image and for many, many are no worse for those who wait.
            allowed = max(TURN_S, 2 * self._alone.get(kind, 0.0))
            if seconds > allowed:
                limit = min(limit, max(1, images // 2))
            elif seconds < 0.75 * allowed and images >= limit:
                limit = min(self._max_batch, 2 * limit)
            self._limits[kind] = limit

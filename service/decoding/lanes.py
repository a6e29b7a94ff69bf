"""Images that wait to be decoded, in two lanes, and which of them goes next."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator

from secondlook.service.decoding.jobs import TURN_OF_REQUEST_S, Job

BEHIND_S, SUSPECT_S = 15.0, 10.0
"""How long images like one that was in the wrong lane let others go first there, and how long they are suspected."""


class Lanes:
    """The quick lane, in the order in which images are due there, and the slow one, by their rank."""

    def __init__(self) -> None:
        self._quick: list[tuple[float, int, Job]] = []
        self._slow: list[Job] = []
        self._suspected: dict[tuple[str | None, int], float] = {}
        """Kinds of images of which one was in the wrong lane, and until when."""

    def __iter__(self) -> Iterator[Job]:
        """All that wait."""
        yield from (job for _, _, job in self._quick)
        yield from self._slow

    def __bool__(self) -> bool:
        return bool(self._quick or self._slow)

    def add_quick(self, job: Job) -> None:
        """Have an image wait in the quick lane, each behind those before it of its request."""
        due = time.monotonic() + TURN_OF_REQUEST_S * job.spending.quick
        job.spending.quick += 1
        heapq.heappush(self._quick, (due, job.order, job))

    def add_slow(self, job: Job) -> None:
        """Have an image wait in the slow lane."""
        self._slow.append(job)

    def take_quick(self) -> Job | None:
        """Take the next image from the quick lane; one of a suspected kind is not due yet, and goes behind."""
        while self._quick:
            due, order, job = heapq.heappop(self._quick)
            if not _is_wanted(job):
                continue
            if job.is_behind or self._suspected.get(job.kind, 0.0) <= time.monotonic():
                return job
            job.is_behind = True
            heapq.heappush(self._quick, (due + BEHIND_S, order, job))
        return None

    def first_slow(self) -> Job | None:
        """The next image of the slow lane, which stays there."""
        while self._slow:
            job = min(self._slow, key=lambda job: job.rank)
            if _is_wanted(job):
                return job
            self._slow.remove(job)
        return None

    def take_slow(self, job: Job) -> None:
        """Take an image from the slow lane."""
        self._slow.remove(job)

    def first_of_others(self, job: Job) -> Job | None:
        """The next image of the slow lane that is of another request than this one."""
        others = (one for one in self._slow if one.spending is not job.spending and not one.done.done())
        return min(others, key=lambda other: other.rank, default=None)

    def suspect(self, job: Job) -> None:
        """Have images like this one let others go first in the quick lane for a while."""
        self._suspected[job.kind] = time.monotonic() + SUSPECT_S

    def clear(self) -> None:
        """Let all go."""
        self._quick.clear()
        self._slow.clear()


def _is_wanted(job: Job) -> bool:
    """Whether somebody waits for it; its request is told where that has taken too much already."""
    if job.done.done():
        return False
    if job.spending.is_over:
        job.done.set_exception(job.too_slow)
        return False
    return True

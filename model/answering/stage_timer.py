"""Measures how long each stage of answering takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass
class StageTimer:
    """Seconds by stage, while images are answered."""

    encode: float = 0.0
    search: float = 0.0
    vote: float = 0.0
    seen: float = 0.0
    """When work was last known to go on, by ``time.monotonic()``: others see by it whether it hangs."""
    between: Callable[[], None] | None = None
    """Called now and then by a stage that takes long, so that other work can be done."""
    lent: float = 0.0
    """Seconds that ``between`` took, which belong to no stage."""

    @contextmanager
    def stage(self, stage: Literal["encode", "search", "vote"]) -> Iterator[None]:
        """Add the block's seconds to a stage."""
        started, lent = time.perf_counter(), self.lent
        self.seen = time.monotonic()
        yield
        setattr(self, stage, getattr(self, stage) + time.perf_counter() - started - (self.lent - lent))

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items of a stage that takes long, with ``between`` called before each."""
        for item in items:
            began = time.monotonic()
            if self.between is not None:
                self.between()
            self.seen = time.monotonic()
            self.lent += self.seen - began
            yield item

    def since(self, before: StageTimer) -> StageTimer:
        """The seconds since an earlier state."""
        return StageTimer(self.encode - before.encode, self.search - before.search, self.vote - before.vote)

    def add(self, other: StageTimer) -> None:
        """Add another timer's seconds."""
        self.encode += other.encode
        self.search += other.search
        self.vote += other.vote

"""What is asked of a run, and what a part of it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How a machine is measured."""

    device: str = "cuda"
    """``cuda``, or ``cpu`` to try the script itself."""
    quick: bool = False
    """Small networks, few images: to see that it runs. Its times say nothing."""
    data: Path | None = None
    """Where the published CIFAR batches lie; without, images are made."""
    weights: Path | None = None
    """A folder of the author's .h5 files."""

    @property
    def seconds(self) -> float:
        """Spent on each time taken."""
        return 0.02 if self.quick else 0.5

    @property
    def precisions(self) -> tuple[str, ...]:
        """The network's."""
        return ("float32", "bfloat16")


@dataclass(frozen=True)
class Found:
    """One thing that a part measured."""

    name: str
    values: dict[str, Any]
    agrees: bool | None = None
    """Whether it answers as it should; None = nothing was compared."""
    why: str = ""
    """What differs."""


@dataclass(frozen=True)
class LeftOut:
    """One thing, or with no name the rest of the part, that could not be measured here."""

    name: str
    why: str


@dataclass
class Outcome:
    """What came of a part."""

    part: str
    seconds: float = 0.0
    found: list[Found] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    failed: str = ""
    """Why it ended before it was done."""

    @property
    def status(self) -> str:
        """In one word."""
        if self.failed:
            return "failed"
        if any(one.agrees is False for one in self.found):
            return "differs"
        if not self.found:
            return "left out"
        return "agrees" if any(one.agrees for one in self.found) else "measured"

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against it."""
        return self.status not in ("failed", "differs")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "found": {
                one.name: one.values
                | ({} if one.agrees is None else {"agrees": one.agrees})
                | ({"why": one.why} if one.why else {})
                for one in self.found
            },
            "left_out": {one.name or self.part: one.why for one in self.left_out},
            "failed": self.failed,
        }


class Clock:
    """How long a part may still take."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - time.monotonic()


Part = Callable[[Plan, Clock], Iterator[Found | LeftOut]]
"""Measures, and yields what it has found as it finds it: what was yielded stays, whatever becomes of the rest."""


class NotHereError(Exception):
    """Something that cannot be measured on this machine, for the reason given."""

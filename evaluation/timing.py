"""Timing: needs numpy alone, so that it also runs where little else is installed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def repeated(work: Callable[[], object], for_seconds: float, fewest: int = 3) -> list[float]:
    """Time calls made over and over for so long."""
    times: list[float] = []
    until = time.perf_counter() + for_seconds
    while time.perf_counter() < until or len(times) < fewest:
        times.append(seconds(work))
    return times


def median_ms(work: Callable[[], object], for_seconds: float = 1.0) -> float:
    """Return the median milliseconds of a call, after one that does not count."""
    work()
    return 1000 * float(np.median(repeated(work, for_seconds)))

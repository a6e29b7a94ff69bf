"""How long work says where it is: to a terminal, to a log, or to an admin job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Called as work goes on; may raise to cancel it."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Stage 'embed', say, has done so many of the total."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@contextmanager
def on_terminal() -> Iterator[Progress]:
    """A progress bar with rate and time left on a terminal; a plain line per stage and every 10 s elsewhere.

    Both go to standard error, so that standard output holds results alone.
    """
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich import progress as rich
    from rich.console import Console

    text = rich.TextColumn("{task.description:>10}"), rich.TextColumn("{task.fields[rate]}")
    times = rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
    columns = rich.SpinnerColumn(), text[0], rich.BarColumn(), rich.MofNCompleteColumn(), text[1], *times
    bars = rich.Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, rich.TaskID] = {}
    last: dict[str, tuple[float, int]] = {}  # when each began, and how far it is

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, rate="")
        task, (started, before) = tasks[stage], last.get(stage, (now, 0))
        if done < before:  # the same work begins anew, on other images
            bars.reset(task)
            started = now
        last[stage] = started, done
        rate = done / max(now - started, 1e-9)
        bars.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s" if done else "")

    with bars:
        yield report


class _PlainLines:
    def __init__(self) -> None:
        self._stage, self._said = "", (0, 0)
        self._started = self._printed = 0.0
        self._done = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or done < self._done:  # or the same work begins anew, on other images
            self._stage, self._started, self._printed, self._said = stage, now, 0.0, (0, 0)
        self._done = done
        if (done < total and now - self._printed < 10.0) or (done, total) == self._said:
            return
        self._printed, self._said = now, (done, total)
        elapsed = now - self._started
        rate = f", {done / elapsed:,.0f}/s, {(total - done) * elapsed / done:,.0f} s left" if done and elapsed else ""
        print(f"{stage}: {done:,} of {total:,}{rate}", file=sys.stderr, flush=True)

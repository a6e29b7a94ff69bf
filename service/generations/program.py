"""What runs as a process of its own for a job: how it gives way to answers, what it says of its progress, its log."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondlook.service.generations.records import Job

NICENESS = 19
"""A job gives way to answers."""
OOM_SCORE_ADJUSTMENT = 800
"""Where memory ends, the job is killed (at most 1000) and not the server."""
LOG_BYTES = 64 << 10
"""Of each job's log, the end is kept."""


class Log:
    """The end of what a job wrote."""

    def __init__(self) -> None:
        self._kept, self._is_cut = b"", False

    def write(self, written: bytes) -> None:
        """Append."""
        kept = self._kept + written
        self._is_cut |= len(kept) > LOG_BYTES
        self._kept = kept[-LOG_BYTES:]

    def note(self, sentence: str) -> None:
        """Append a line of the server's own, with the time."""
        start = b"" if not self._kept or self._kept.endswith(b"\n") else b"\n"
        self.write(start + f"{datetime.now(UTC):%H:%M:%S} {sentence}\n".encode())

    @property
    def kept(self) -> bytes:
        """All but the rest of a line that was cut: it could show the end of a path without its start."""
        return self._kept.partition(b"\n")[2] if self._is_cut else self._kept


def give_way(pid: int) -> None:
    """Answers first: for the processor, and where memory ends."""
    with suppress(OSError):  # it may be over already
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJUSTMENT))


async def follow(stdout: asyncio.StreamReader, job: Job, log: Log) -> dict[str, Any]:
    """Keep the job's progress up to date; the last line that is a JSON object and no progress."""
    last: dict[str, Any] = {}
    started = time.monotonic()
    async for line in stdout:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        match said:
            case {"stage": str(stage), "done": int(done), "total": int(total)}:
                if stage != job.stage:
                    started = time.monotonic()
                    log.note(f"{stage}, {total:,} to do")
                job.stage, job.done, job.total = stage, done, total
                elapsed = time.monotonic() - started
                job.eta_s = round(elapsed * max(total - done, 0) / done, 1) if done > 0 else None
            case dict():
                last = said
    return last


async def keep(stderr: asyncio.StreamReader, log: Log) -> None:
    """Write what a process says into its job's log."""
    while chunk := await stderr.read(LOG_BYTES):
        log.write(chunk)

"""Rebuilds: the indexer in a process of its own, one at a time, with progress, cancelling and a switch at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from model.errors import BundleError
from service.errors import GateError, RebuildRunningError, UnknownJobError

logger = logging.getLogger(__name__)

# -P: a folder called like one of ours, where the server was started, must not be imported.
COMMAND = (sys.executable, "-P", "-m", "secondlook", "index")
NICENESS = 19
"""A rebuild gives way to answers."""
OOM_SCORE_ADJUSTMENT = 800
"""Where memory ends, the rebuild is killed (at most 1000) and not the server."""
TERM_SECONDS = 5.0
"""How long a cancelled rebuild may take to clean up before it is killed."""
LOG_BYTES = 64 << 10
"""Of each job's log, the end is kept."""
REMEMBERED = 100
"""Jobs kept in memory; older ones are forgotten."""


_FOLDERS = re.compile(r"(?<![\w.…/])/(?:[^\s/:'\"]+/)+")
"""Leading folders of an absolute path, as in a traceback."""


class Job(BaseModel):
    """A rebuild, running or over."""

    id: str
    state: Literal["running", "succeeded", "failed", "cancelled"] = "running"
    stage: str = "start"
    done: int = 0
    total: int = 0
    eta_s: float | None = Field(None, description="Seconds that this stage will still take.")
    created: datetime
    finished: datetime | None = None
    generation: str | None = Field(None, description="What it built.")
    compared: str | None = Field(None, description="How its errors compare with those of the generation before.")
    error: str | None = None


class _FailedError(Exception):
    """A rebuild failed; the message is the job's error."""


class _CancelledError(Exception):
    """A rebuild was cancelled."""


class _Log:
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

    def __str__(self) -> str:
        # The rest of a line that was cut could show the end of a path without its start.
        kept = self._kept.partition(b"\n")[2] if self._is_cut else self._kept
        return kept.decode(errors="replace")


class Rebuilds:
    """All rebuilds of this server's life.

    ``adopt`` is awaited with each new generation and whether it is forced, and says what was compared.
    """

    def __init__(
        self, adopt: Callable[[str, bool], Awaitable[str]], hide: Callable[[str], str] = lambda sentence: sentence
    ) -> None:
        self._adopt, self._hide = adopt, hide
        self._jobs: dict[str, Job] = {}
        self._logs: dict[str, _Log] = {}
        self.ended: Counter[str] = Counter()
        """How many ended in each state, those forgotten too."""
        self._running: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._cancelling = False

    def listing(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJobError: there is none with that id.
        """
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJobError("there is no such job: /v1/admin/jobs lists them") from None

    def log(self, job_id: str) -> str:
        """The end of what one job wrote, the folders of this machine left out.

        Raises:
            UnknownJobError: there is none with that id.
        """
        job = self.get(job_id)
        return _FOLDERS.sub("…/", self._hide(str(self._logs[job.id])))

    def start(self, arguments: Sequence[str], *, force: bool = False) -> Job:
        """Run ``secondlook index`` with those arguments; ``force`` switches whatever its errors are.

        Raises:
            RebuildRunningError: names the job that runs already.
        """
        if self._running is not None and not self._running.done():
            raise RebuildRunningError(f"job {list(self._jobs)[-1]} is running: wait for it, or cancel it")
        job = Job(id=secrets.token_hex(8), created=datetime.now(UTC))
        self._jobs[job.id], self._logs[job.id] = job, _Log()
        while len(self._jobs) > REMEMBERED:
            oldest = next(iter(self._jobs))
            del self._jobs[oldest], self._logs[oldest]
        self._cancelling = False
        running = self._run(job, arguments, force)
        self._running = asyncio.get_running_loop().create_task(running, name=f"rebuild {job.id}")
        return job

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and wait until it has stopped; one that is over, or is being switched to, stays as it is.

        Raises:
            UnknownJobError: there is none with that id.
        """
        job = self.get(job_id)
        if job.state == "running" and self._running is not None:
            self._cancelling = True
            self._signal(signal.SIGTERM)
            _, pending = await asyncio.wait((self._running,), timeout=TERM_SECONDS)
            if pending:
                self._signal(signal.SIGKILL)
                await asyncio.wait((self._running,))
        return job

    async def close(self) -> None:
        """Stop what runs."""
        for job in self.listing():
            await self.cancel(job.id)

    def _signal(self, number: signal.Signals) -> None:
        # To the whole group: the indexer may have workers.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _run(self, job: Job, arguments: Sequence[str], force: bool) -> None:
        log = self._logs[job.id]
        try:
            job.generation = await self._index(job, arguments, log)
            job.stage, job.done, job.total, job.eta_s = "activate", 0, 0, None
            log.note(f"generation {job.generation} is built")
            job.compared = await self._adopt(job.generation, force)
            log.note(job.compared)
            job.state = "succeeded"
        except _CancelledError:
            job.state = "cancelled"
        except (_FailedError, BundleError, GateError) as error:
            job.state, job.error = "failed", self._hide(str(error))
        except Exception:
            logger.exception("rebuild %s failed", job.id)
            job.state, job.error = "failed", "the server failed; its log says why"
        finally:
            self._process = None
            job.finished, job.eta_s = datetime.now(UTC), None
            self.ended[job.state] += 1
            log.note(f"{job.state}{f': {job.error}' if job.error else ''}")
            logger.info("rebuild %s %s%s", job.id, job.state, f": {job.error}" if job.error else "")

    async def _index(self, job: Job, arguments: Sequence[str], log: _Log) -> str:
        """The indexer's new generation."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--no-activate",
            "--progress=json",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own, so that Ctrl-C reaches the server alone, which then stops the rebuild.
            start_new_session=True,
        )
        self._process = process
        _give_way(process.pid)
        if self._cancelling:
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.ensure_future(_keep(process.stderr, log))
        try:
            last = await _follow(process.stdout, job, log)
            status = await process.wait()
        finally:
            # Reached with the process alive only if its output could not be read.
            self._signal(signal.SIGKILL)
            await errors
        if self._cancelling:
            raise _CancelledError
        if status == 0 and isinstance(last.get("generation"), str):
            return str(last["generation"])
        logger.error("rebuild %s: the indexer ended with status %d; it wrote: %s", job.id, status, log)
        if isinstance(last.get("error"), str):
            raise _FailedError(last["error"])
        killed = ", killed as happens where memory ends" if status == -signal.SIGKILL else ""
        raise _FailedError(f"the indexer ended with status {status}{killed} and no result: see the job's log")


def _give_way(pid: int) -> None:
    """Answers first: for the processor, and where memory ends."""
    with suppress(OSError):  # it may be over already
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJUSTMENT))


async def _follow(stdout: asyncio.StreamReader, job: Job, log: _Log) -> dict[str, Any]:
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


async def _keep(stderr: asyncio.StreamReader, log: _Log) -> None:
    while chunk := await stderr.read(LOG_BYTES):
        log.write(chunk)

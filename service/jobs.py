"""Rebuilds: the indexer in a process of its own, one at a time, with progress, cancelling and a switch at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from model.errors import BundleError
from service.errors import RebuildRunningError, UnknownJobError

logger = logging.getLogger(__name__)

# -P: a folder called like one of ours, where the server was started, must not be imported.
COMMAND = (sys.executable, "-P", "-m", "secondlook", "index")
NICENESS = 10
"""A rebuild gives way to answers."""
TERM_SECONDS = 5.0
"""How long a cancelled rebuild may take to clean up before it is killed."""
STDERR_BYTES = 64 << 10
REMEMBERED = 100
"""Jobs kept in memory; older ones are forgotten."""


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
    error: str | None = None


class _FailedError(Exception):
    """A rebuild failed; the message is the job's error."""


class _CancelledError(Exception):
    """A rebuild was cancelled."""


class Rebuilds:
    """All rebuilds of this server's life. ``switch`` is awaited with each new generation."""

    def __init__(
        self, switch: Callable[[str], Awaitable[None]], hide: Callable[[str], str] = lambda sentence: sentence
    ) -> None:
        self._switch, self._hide = switch, hide
        self._jobs: dict[str, Job] = {}
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

    def start(self, arguments: Sequence[str]) -> Job:
        """Run ``secondlook index`` with those arguments.

        Raises:
            RebuildRunningError: names the job that runs already.
        """
        if self._running is not None and not self._running.done():
            raise RebuildRunningError(f"job {list(self._jobs)[-1]} is running: wait for it, or cancel it")
        job = Job(id=secrets.token_hex(8), created=datetime.now(UTC))
        self._jobs[job.id] = job
        while len(self._jobs) > REMEMBERED:
            del self._jobs[next(iter(self._jobs))]
        self._cancelling = False
        self._running = asyncio.get_running_loop().create_task(self._run(job, arguments), name=f"rebuild {job.id}")
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

    async def _run(self, job: Job, arguments: Sequence[str]) -> None:
        try:
            job.generation = await self._index(job, arguments)
            job.stage, job.done, job.total, job.eta_s = "activate", 0, 0, None
            await self._switch(job.generation)
            job.state = "succeeded"
        except _CancelledError:
            job.state = "cancelled"
        except (_FailedError, BundleError) as error:
            job.state, job.error = "failed", self._hide(str(error))
        except Exception:
            logger.exception("rebuild %s failed", job.id)
            job.state, job.error = "failed", "the server failed; its log says why"
        finally:
            self._process = None
            job.finished, job.eta_s = datetime.now(UTC), None
            logger.info("rebuild %s %s%s", job.id, job.state, f": {job.error}" if job.error else "")

    async def _index(self, job: Job, arguments: Sequence[str]) -> str:
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
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        if self._cancelling:
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.ensure_future(_tail(process.stderr))
        try:
            last = await _follow(process.stdout, job)
            status = await process.wait()
        finally:
            # Reached with the process alive only if its output could not be read.
            self._signal(signal.SIGKILL)
            said = await errors
        if self._cancelling:
            raise _CancelledError
        if status == 0 and isinstance(last.get("generation"), str):
            return str(last["generation"])
        logger.error("rebuild %s: the indexer ended with status %d; it wrote: %s", job.id, status, said)
        if isinstance(last.get("error"), str):
            raise _FailedError(last["error"])
        raise _FailedError(f"the indexer ended with status {status} and no result; the server's log has what it wrote")


async def _follow(stdout: asyncio.StreamReader, job: Job) -> dict[str, Any]:
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
                job.stage, job.done, job.total = stage, done, total
                elapsed = time.monotonic() - started
                job.eta_s = round(elapsed * max(total - done, 0) / done, 1) if done > 0 else None
            case dict():
                last = said
    return last


async def _tail(stderr: asyncio.StreamReader) -> str:
    kept = b""
    while chunk := await stderr.read(STDERR_BYTES):
        kept = (kept + chunk)[-STDERR_BYTES:]
    return kept.decode(errors="replace")

"""Jobs: rebuilds, and what looks at all entries; one at a time, with progress and cancelling.

Each is a process of its own. A rebuild ends with a switch to what it built. Their records lie in the root
(``service.generations.records``), so that all who serve it know of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from secondlook.model.errors import BundleError
from secondlook.service.errors import AcceptanceError, RebuildRunningError, UnavailableError, UnknownJobError
from secondlook.service.generations.program import LOG_BYTES, Log, follow, give_way, keep
from secondlook.service.generations.records import Claim, Job, JobKind, Records
from secondlook.service.metrics import Metrics

logger = logging.getLogger(__name__)

TERM_SECONDS = 5.0
"""How long a cancelled job may take to clean up before it is killed."""
CLOSE_SECONDS = 1.0
"""The same when the server stops, which has asked it to end when the signal came."""
REPORT_SECONDS = 0.3
"""How often a job's record is brought up to date, and looked at for another process's wish to cancel it."""
CANCEL_SECONDS = 20.0
"""How long it is waited for another process to cancel what it runs."""
UNWRITTEN = 10
"""Jobs kept in memory because their records could not be written; older ones are forgotten."""

_FOLDERS = re.compile(r"(?<![\w.…/])/(?:[^\s/:'\"]+/)+")
"""Leading folders of an absolute path, as in a traceback."""


class _FailedError(Exception):
    """A job failed; the message is its error."""


class _CancelledError(Exception):
    """A job was cancelled."""


Finish = Callable[[Job, Mapping[str, Any], Log], Awaitable[dict[str, Any]]]
"""Makes something of the last line that a job's process wrote; the job's members then."""


class _Work(NamedTuple):
    """What a job does."""

    kind: JobKind
    arguments: Sequence[str]
    """``secondlook``'s."""
    finish: Finish


class Jobs:
    """The jobs of a root, of which this process may run one.

    Each is a process of ``program``, the command line that starts ``secondlook``. ``adopt`` is awaited with each new
    generation and whether it is forced, and says what was compared.
    """

    def __init__(
        self,
        root: Path,
        program: Sequence[str],
        adopt: Callable[[str, bool], Awaitable[str]],
        hide: Callable[[str], str] = lambda sentence: sentence,
        metrics: Metrics | None = None,
    ) -> None:
        self._program, self._adopt, self._hide, self._metrics = program, adopt, hide, metrics or Metrics()
        self._records = Records(root)
        self._own: dict[str, tuple[Job, Log]] = {}
        """The one that runs here, and those whose records could not be written."""
        self._starting = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._cancelling = False

    @property
    def is_rebuilding(self) -> bool:
        """Whether this process runs a rebuild."""
        return any(job.state == "running" and job.kind == "rebuild" for job, _ in self._own.values())

    def listing(self) -> list[Job]:
        """All jobs that are remembered, oldest first; reads files."""
        own = dict(self._own)
        others = (job for job in self._records.listing() if job.id not in own)
        return sorted((*others, *(job for job, _ in own.values())), key=lambda job: job.created)

    def get(self, job_id: str) -> Job:
        """One job; reads files.

        Raises:
            UnknownJobError: there is none with that id.
        """
        own = self._own.get(job_id)
        job = own[0] if own is not None else self._records.read(job_id)
        if job is None:
            raise UnknownJobError("there is no such job: /v1/admin/jobs lists them")
        return job

    def log(self, job_id: str) -> str:
        """The end of what one job wrote, the folders of this machine left out; reads files.

        Raises:
            UnknownJobError: there is none with that id.
        """
        self.get(job_id)
        own = self._own.get(job_id)
        written = own[1].kept if own is not None else self._records.log(job_id)
        return _FOLDERS.sub("…/", self._hide(written.decode(errors="replace")))

    async def rebuild(self, arguments: Sequence[str], *, force: bool = False) -> Job:
        """Run ``secondlook index`` with those arguments; ``force`` switches whatever its errors are.

        Raises:
            RebuildRunningError: names the job that runs already, here or in another process.
        """
        arguments = ("index", "--no-activate", "--progress=json", *arguments)
        return await self._start(_Work("rebuild", arguments, partial(self._switch, force)))

    async def look(self, kind: JobKind, arguments: Sequence[str], found: Callable[[Mapping[str, Any]], str]) -> Job:
        """Run a command that looks at all entries and writes what it finds (``result``); ``found`` puts it in words.

        Raises:
            RebuildRunningError: names the job that runs already, here or in another process.
            UnavailableError: what it finds cannot be kept.
        """

        async def finish(job: Job, last: Mapping[str, Any], log: Log) -> dict[str, Any]:
            if not isinstance(generation := last.get("generation"), str):
                raise _FailedError("it ended with no result: see the job's log")
            log.note(sentence := found(last))
            return {"generation": generation, "found": sentence}

        return await self._start(_Work(kind, arguments, finish))

    def result(self, kind: JobKind, generation: str) -> tuple[Job, Path] | None:
        """The newest job of a kind that looked at a generation and is over, and what it wrote; reads files."""
        for job in reversed(self.listing()):
            if (job.kind, job.state, job.generation) == (kind, "succeeded", generation):
                path = self._records.result(job.id)
                if path.exists():
                    return job, path
        return None

    def _forget(self, kind: JobKind) -> None:
        """Remove what jobs of a kind found, but for the newest of each generation: nobody asks for it any more."""
        kept = set()
        for job in reversed(self.listing()):
            if job.kind != kind or job.state == "running":
                continue
            if job.state == "succeeded" and job.generation not in kept:
                kept.add(job.generation)
            else:
                self._records.result(job.id).unlink(missing_ok=True)

    async def _start(self, work: _Work) -> Job:
        async with self._starting:
            for other, _ in self._own.values():
                if other.state == "running":
                    raise RebuildRunningError(f"job {other.id} is running: wait for it, or cancel it")
            job = Job(id=secrets.token_hex(8), kind=work.kind, created=datetime.now(UTC))
            log, claim = Log(), None
            try:
                claim = await asyncio.to_thread(self._records.claim, job)
            except OSError as error:
                if work.kind != "rebuild":
                    raise UnavailableError(f"what it finds cannot be kept: {error.strerror}") from error
                # The indexer will find the same amiss, and says so in the job.
                logger.warning("%s %s has no record: %s", job.kind, job.id, error.strerror)
            if work.kind != "rebuild":
                await asyncio.to_thread(self._forget, work.kind)
                work = work._replace(arguments=(*work.arguments, f"--for-server={self._records.result(job.id)}"))
            self._own[job.id] = (job, log)
            while len(self._own) > UNWRITTEN:
                del self._own[next(iter(self._own))]
            self._cancelling = False
            running = self._run(job, work, log, claim)
            self._running = asyncio.get_running_loop().create_task(running, name=f"{job.kind} {job.id}")
            return job

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and wait until it has stopped; one that is over, or is being switched to, stays as it is.

        Raises:
            UnknownJobError: there is none with that id.
            UnavailableError: another process runs it, and cannot be told or does not listen.
        """
        job = await asyncio.to_thread(self.get, job_id)
        if job.state != "running":
            return job
        if job_id in self._own:
            assert self._running is not None
            self._stop()
            await asyncio.wait((self._running,))
            return job
        with suppress(OSError, TimeoutError):
            await asyncio.to_thread(self._records.ask_to_cancel, job_id)
            async with asyncio.timeout(CANCEL_SECONDS):
                while (job := await asyncio.to_thread(self.get, job_id)).state == "running":
                    await asyncio.sleep(REPORT_SECONDS / 2)
        if job.state == "running":
            raise UnavailableError("another process runs this job and does not stop it: try again later")
        return job

    async def close(self) -> None:
        """Stop what runs here, within CLOSE_SECONDS; it is killed where it does not end."""
        self.stop()
        if self._running is not None and not self._running.done():
            await asyncio.wait((self._running,), timeout=CLOSE_SECONDS / 2)
            self.kill()
            await asyncio.wait((self._running,), timeout=CLOSE_SECONDS / 2)

    def stop(self) -> None:
        """Have what runs here end soon."""
        if self._running is not None and not self._running.done():
            self._stop()

    def kill(self) -> None:
        """End what runs here at once; from any thread."""
        self._signal(signal.SIGKILL)

    def _stop(self) -> None:
        """Ask the indexer to end, and end it if it does not."""
        if not self._cancelling:
            self._cancelling = True
            self._signal(signal.SIGTERM)
            self._killing = asyncio.get_running_loop().call_later(TERM_SECONDS, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # To the whole group: the indexer may have workers.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _run(self, job: Job, work: _Work, log: Log, claim: Claim | None) -> None:
        is_over = asyncio.Event()
        reporting = asyncio.create_task(self._report(job, log, claim, is_over)) if claim is not None else None
        changed: dict[str, Any]
        try:
            last = await self._last_line(job, work.arguments, log)
            changed = {"state": "succeeded", **await work.finish(job, last, log)}
        except _CancelledError:
            changed = {"state": "cancelled"}
        except (_FailedError, BundleError, AcceptanceError) as error:
            changed = {"state": "failed", "error": self._hide(str(error))}
        except Exception:
            logger.exception("%s %s failed", job.kind, job.id)
            changed = {"state": "failed", "error": "the server failed; its log says why"}
        self._process = None
        is_over.set()
        if reporting is not None:  # not cancelled: what it writes must not come after the last record
            await asyncio.wait((reporting,))
        changed |= {"finished": datetime.now(UTC), "eta_s": None}
        over = job.model_copy(update=changed)
        log.note(f"{over.state}{f': {over.error}' if over.error else ''}")
        # From here on without a pause: whoever sees that it is over, here or in another process, can start the next.
        is_written = False
        if claim is not None:
            try:
                claim.end(over, log.kept)
                is_written = True
            except OSError as error:
                logger.warning("the record of %s %s cannot be written: %s", job.kind, job.id, error.strerror)
        if self._killing is not None:
            self._killing.cancel()
        for name, value in changed.items():
            setattr(job, name, value)
        if is_written:
            self._own.pop(job.id, None)
        if job.kind == "rebuild":
            self._metrics.count_rebuild(job.state)
        logger.info("%s %s %s%s", job.kind, job.id, job.state, f": {job.error}" if job.error else "")

    async def _switch(self, force: bool, job: Job, last: Mapping[str, Any], log: Log) -> dict[str, Any]:
        """Adopt what a rebuild built."""
        if not isinstance(generation := last.get("generation"), str):
            raise _FailedError("the indexer ended with status 0 and no result: see the job's log")
        job.generation = generation
        job.stage, job.done, job.total, job.eta_s = "activate", 0, 0, None
        log.note(f"generation {generation} is built")
        compared = await self._adopt(generation, force)
        log.note(compared)
        return {"compared": compared}

    async def _report(self, job: Job, log: Log, claim: Claim, is_over: asyncio.Event) -> None:
        """Keep a job's record up to date, and see whether another process wants it cancelled."""
        while not is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), REPORT_SECONDS)
                break
            with suppress(OSError):  # a disk that is full now may not be then
                await asyncio.to_thread(claim.write, job.model_copy(), log.kept)
            if claim.is_cancelled:
                self._stop()

    async def _last_line(self, job: Job, arguments: Sequence[str], log: Log) -> dict[str, Any]:
        """What the job's process told in its last line."""
        process = await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own, so that Ctrl-C reaches the server alone, which then stops the rebuild.
            start_new_session=True,
        )
        self._process = process
        give_way(process.pid)
        if self._cancelling:
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.ensure_future(keep(process.stderr, log))
        try:
            last = await follow(process.stdout, job, log)
            status = await process.wait()
        finally:
            # Reached with the process alive only if its output could not be read.
            self._signal(signal.SIGKILL)
            await errors
            while await process.stdout.read(LOG_BYTES):  # what nobody read would keep its pipe open
                pass
            await process.wait()
        if self._cancelling:
            raise _CancelledError
        if status == 0 and last and "error" not in last:
            return last
        # One that says why has done its part: a folder that is not there, say, or a store that there is none of.
        who = "the indexer" if job.kind == "rebuild" else f"the {job.kind}"
        logger.log(
            logging.WARNING if isinstance(last.get("error"), str) else logging.ERROR,
            "%s %s: %s ended with status %d; it wrote: %s",
            job.kind,
            job.id,
            who,
            status,
            log.kept.decode(errors="replace"),
        )
        if isinstance(last.get("error"), str):
            raise _FailedError(last["error"])
        killed = ", killed as happens where memory ends" if status == -signal.SIGKILL else ""
        raise _FailedError(f"{who} ended with status {status}{killed} and no result: see the job's log")

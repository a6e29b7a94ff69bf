"""The records of jobs, kept below the root that they are of: whoever serves it lists, shows and cancels them all.

::

    ROOT/jobs/<id>/  job.json  log.txt  cancel  result

Whoever runs a job holds a lock on its folder (flock, so a dead process holds none). A record that says ``running``
without that lock is of a process that was killed. ``cancel`` is put there for the one who runs it to find.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from secondlook.model.bundles.locks import lock_folder, root_lock
from secondlook.service.errors import RebuildRunningError

REMEMBERED = 100
"""Jobs whose records are kept; older ones are removed."""
FOLDER = "jobs"
DIED = "the server process that ran it ended before it was over: start it anew"

_ID = re.compile(r"[0-9a-f]{16}")
_JOB, _LOG, _CANCEL, _RESULT = "job.json", "log.txt", "cancel", "result"

JobKind = Literal["rebuild", "audit", "map"]


class Job(BaseModel):
    """A rebuild, or a look at all entries; running or over."""

    id: str
    kind: JobKind = "rebuild"
    state: Literal["running", "succeeded", "failed", "cancelled"] = "running"
    stage: str = "start"
    done: int = 0
    total: int = 0
    eta_s: float | None = Field(None, description="Seconds that this stage will still take.")
    created: datetime
    finished: datetime | None = None
    generation: str | None = Field(None, description="What a rebuild built, or another job looked at.")
    compared: str | None = Field(None, description="How its errors compare with those of the generation before.")
    found: str | None = Field(None, description="What a job that is no rebuild found, in a sentence.")
    error: str | None = None


class Claim:
    """The right to run one job, and its record; let go with ``end``, or with the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        try:
            self._lock = lock_folder(folder)
        except OSError:  # a file system without locks
            folder.rmdir()
            raise
        self._written: tuple[str, bytes] = ("", b"")

    @property
    def is_cancelled(self) -> bool:
        """Whether another process asks for its end."""
        return (self._folder / _CANCEL).exists()

    def write(self, job: Job, log: bytes) -> None:
        """Put record and log into place, where they changed.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        told = job.model_dump_json()
        if log != self._written[1]:
            _replace(self._folder / _LOG, log)
        if told != self._written[0]:
            _replace(self._folder / _JOB, told.encode())
        self._written = (told, log)

    def end(self, job: Job, log: bytes) -> None:
        """The same for the last time.

        Raises:
            OSError: as for ``write``; the job is let go nevertheless.
        """
        try:
            self.write(job, log)
        finally:
            os.close(self._lock)


class Records:
    """All jobs of a root."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / FOLDER

    def claim(self, job: Job) -> Claim:
        """Take a new job on, the only one that runs on this root; the oldest records beyond REMEMBERED are removed.

        Raises:
            RebuildRunningError: names the job that runs already, in whichever process.
            OSError: the root cannot be written.
        """
        with root_lock(self._root):
            jobs = self.listing()
            for other in jobs:
                if other.state == "running":
                    raise RebuildRunningError(f"job {other.id} is running: wait for it, or cancel it")
            kept = {other.id for other in jobs[len(jobs) - REMEMBERED + 1 :]} if len(jobs) >= REMEMBERED else None
            for folder in self._folders():
                # Without a record: whoever began it was killed at once, or the disk was full.
                if not (folder / _JOB).exists() or (kept is not None and folder.name not in kept):
                    shutil.rmtree(folder, ignore_errors=True)
            claim = Claim(self._folder / job.id)
            try:
                claim.write(job, b"")
            except OSError:
                with suppress(OSError):
                    claim.end(job, b"")
                raise
            return claim

    def listing(self) -> list[Job]:
        """All of them, oldest first."""
        found = (self.read(folder.name) for folder in self._folders())
        return sorted((job for job in found if job is not None), key=lambda job: (job.created, job.id))

    def read(self, job_id: str) -> Job | None:
        """One job; None where there is none with that id."""
        if not _ID.fullmatch(job_id):
            return None
        folder = self._folder / job_id
        job = _read(folder)
        if job is None or job.state != "running" or _is_locked(folder):
            return job
        job = _read(folder)  # it may have ended in between, and then says how
        if job is not None and job.state == "running":
            return job.model_copy(update={"state": "failed", "error": DIED, "eta_s": None, "finished": _seen(folder)})
        return job

    def log(self, job_id: str) -> bytes:
        """What one job wrote; empty where that is nothing, or there is no such job."""
        try:
            return (self._folder / job_id / _LOG).read_bytes() if _ID.fullmatch(job_id) else b""
        except OSError:
            return b""

    def result(self, job_id: str) -> Path:
        """Where a job writes what it finds."""
        return self._folder / job_id / _RESULT

    def ask_to_cancel(self, job_id: str) -> None:
        """Have the process that runs a job cancel it.

        Raises:
            OSError: the root cannot be written.
        """
        (self._folder / job_id / _CANCEL).touch()

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
        except OSError:  # no rebuild yet
            return []


def _read(folder: Path) -> Job | None:
    try:
        return Job.model_validate_json((folder / _JOB).read_bytes())
    except (OSError, ValueError):
        return None


def _is_locked(folder: Path) -> bool:
    try:
        os.close(lock_folder(folder, fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except OSError:  # it was just removed, or a file system without locks
        return False
    return False


def _seen(folder: Path) -> datetime | None:
    """The last sign of life of whoever ran a job."""
    try:
        return datetime.fromtimestamp((folder / _JOB).stat().st_mtime, UTC)
    except OSError:
        return None


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)

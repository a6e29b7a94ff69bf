"""The file of a root's journal, ``taught.sqlite``: found, opened, brought up to date, read and changed.

Nothing is kept open between two calls: each uses what the path names at that time. So a journal that was replaced, put
back from a copy or moved while servers run is noticed, and nothing is written to a file that nobody will read again.
It has a rollback journal and no write-ahead log: while nothing is being written, all of it is in this one file, and a
copy of that is whole (docs/teaching.md says how one is put back).

Every change is one transaction, on the disk before it returns. Several processes of one host may use it at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from secondlook.model.errors import JournalError, JournalFullError
from secondlook.model.labels import fold

logger = logging.getLogger(__name__)

JOURNAL = "taught.sqlite"
VERSION = 2
BUSY_SECONDS = 20.0
"""Time that other users of the file are waited for."""
SCARCE_BYTES = 256 << 10
"""A failure on a disk with less room than this is reported as a full disk."""
LEAST_BYTES = 16 << 10
"""Without so much room, there is none for SQLite's rollback journal."""
LOOK_AGAIN_SECONDS = 0.001
TICK_SECONDS = 0.02
"""More than what passes between two times that the system gives to files."""

Ask = Callable[..., list[tuple]]  # type: ignore[type-arg]
"""Gives the rows of a statement."""
Run = Callable[..., sqlite3.Cursor]
Stamp = tuple[int, int, int, int]
"""What a file's entry in the file system says of its state."""
NOTHING: Stamp = (0, 0, 0, 1)
"""Of a journal that is not there yet."""

_SCHEMA = """
CREATE TABLE images (number INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT, name TEXT NOT NULL, content BLOB,
    change INTEGER NOT NULL, thumbnail BLOB) STRICT;
CREATE INDEX images_by_change ON images (change);
CREATE TABLE keys (image INTEGER NOT NULL, encoder TEXT NOT NULL, mirrored INTEGER NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (image, encoder, mirrored)) STRICT;
CREATE TABLE corrections (dataset TEXT NOT NULL, source TEXT NOT NULL, label TEXT, change INTEGER NOT NULL,
    PRIMARY KEY (dataset, source)) STRICT;
CREATE INDEX corrections_by_change ON corrections (change);
CREATE TABLE labels (position INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL UNIQUE,
    folded TEXT NOT NULL UNIQUE, change INTEGER NOT NULL DEFAULT 1) STRICT;
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, key TEXT NOT NULL,
    action TEXT NOT NULL, image INTEGER, dataset TEXT, source TEXT NOT NULL, label TEXT, was TEXT,
    token BLOB NOT NULL DEFAULT x'') STRICT;
CREATE TABLE requests (key TEXT NOT NULL, request TEXT NOT NULL, digest BLOB NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (key, request)) STRICT;
"""
_MORE = """
CREATE INDEX images_by_label ON images (label);
CREATE INDEX corrections_by_label ON corrections (label);
CREATE TABLE kept (images INTEGER NOT NULL) STRICT;
INSERT INTO kept SELECT count(*) FROM images WHERE label IS NOT NULL;
"""
"""What both a new journal and one of version 1 gets."""
_FROM_1 = """
ALTER TABLE images ADD COLUMN thumbnail BLOB;
ALTER TABLE labels ADD COLUMN change INTEGER NOT NULL DEFAULT 1;
ALTER TABLE changes ADD COLUMN token BLOB NOT NULL DEFAULT x'';
UPDATE changes SET token = randomblob(8);
UPDATE OR IGNORE labels SET folded = fold(label);
"""
_AS_IF_2 = """
CREATE TEMP VIEW images AS SELECT *, NULL AS thumbnail FROM main.images;
CREATE TEMP VIEW labels AS SELECT *, 1 AS change FROM main.labels;
CREATE TEMP VIEW changes AS SELECT *, x'' AS token FROM main.changes;
"""
"""For one of version 1 where nobody may write."""


class JournalFile:
    """A root's journal on the disk; safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        """Bring what is there up to date.

        Raises:
            JournalError: it is damaged, or made by another version.
        """
        self._path = root / JOURNAL
        self._was_there = False
        with self.reading():
            pass

    def stamp(self) -> Stamp | None:
        """A value that differs after each change; None where this file system cannot tell.

        It takes a few microseconds. Whoever takes it before reading, and finds the same later, has missed nothing that
        was acknowledged in between.

        Raises:
            JournalError: it cannot be looked at.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return NOTHING
        except OSError as error:
            raise JournalError(f"{JOURNAL} cannot be read: {error.strerror}") from error
        # Some file systems keep whole seconds, in which there is room for several changes.
        if found.st_mtime_ns % 1_000_000 == 0:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def require_writable(self) -> None:
        """Find out what would keep a change from being written, as far as can be told without writing.

        Raises:
            JournalFullError: the disk is full.
            JournalError: nobody may write there, or the journal was there and is gone.
        """
        where = self._path if self._is_there() else self._path.parent
        if not (os.access(where, os.W_OK) and os.access(self._path.parent, os.W_OK)):
            raise JournalError(f"what is taught cannot be kept: {_why_not(self._path.parent)}")
        if self._free() < LEAST_BYTES:
            raise JournalFullError(f"{JOURNAL} cannot be written: the disk is full")

    @contextmanager
    def reading(self, wait: float = BUSY_SECONDS) -> Iterator[Ask | None]:
        """A function that queries one consistent state; None where there is no journal yet.

        ``wait`` is for how many seconds a change that is being written may keep it waiting.

        Raises:
            JournalError: it cannot be read, or was there and is gone or empty.
        """
        if not self._is_there():
            yield None
            return
        try:
            with closing(self._connect(self._is_writable())) as connection:
                version = _begin(connection, READING, wait)
                if version == 1 and self._is_writable():
                    connection.execute("ROLLBACK")
                    _upgrade(connection, wait)
                    version = _begin(connection, READING, wait)
                if self._check(version) == 0:  # its first writer died before it began
                    yield None
                    return
                if version == 1:
                    _execute(connection, _AS_IF_2)
                yield lambda sql, *given: connection.execute(sql, given).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{JOURNAL} cannot be read: {error}") from error

    @contextmanager
    def changing(self, wait: float = BUSY_SECONDS) -> Iterator[Run]:
        """A function that runs statements in one transaction, which is on the disk when the block ends.

        ``wait`` is for how many seconds others that read or change it may keep it waiting.

        Raises:
            JournalFullError: the disk is full.
            JournalError: it cannot be written, is gone, or was replaced meanwhile.
        """
        if not self._is_there():
            self._create()
        before = self._place()
        try:
            with closing(self._connect(is_writable=True)) as connection:
                version = self._check(_begin(connection, CHANGING, wait))
                if version < VERSION:
                    _bring_up_to_date(connection, version)
                yield lambda sql, *given: connection.execute(sql, given)
                connection.execute("COMMIT")
                self._was_there = True
                if before is None or self._place() != before:
                    raise JournalError(f"{JOURNAL} was replaced while this was being kept: send it again")
                self._mark()
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except OSError as error:
            raise JournalError(f"{JOURNAL} cannot be used: {error.strerror}") from error

    def _is_there(self) -> bool:
        """Whether there is one.

        Raises:
            JournalError: there was one before.
        """
        try:
            self._path.stat()
        except FileNotFoundError:
            if self._was_there:
                raise JournalError(
                    f"{JOURNAL} is gone: put it back, or restart the server to go on without what it held"
                ) from None
            return False
        except OSError as error:
            raise JournalError(f"{JOURNAL} cannot be read: {error.strerror}") from error
        return True

    def _place(self) -> tuple[int, int] | None:
        """Which file the path names."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _mark(self) -> None:
        """Give the file a time that it never had, so that ``stamp`` differs.

        The system's own may be the same for two changes that follow each other quickly.
        """
        now = time.time_ns() | 1
        try:
            os.utime(self._path, ns=(now, now))
        except PermissionError:  # somebody else's file, which this user may write to
            time.sleep(TICK_SECONDS)
            os.utime(self._path)

    def _is_writable(self) -> bool:
        return os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)

    def _create(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise JournalError(f"{JOURNAL} cannot be written: {error.strerror}") from error

    def _connect(self, is_writable: bool) -> sqlite3.Connection:
        log = self._path.with_name(f"{JOURNAL}-wal")
        if is_writable and log.exists():
            self._set_aside(log)
        mode = "rw" if is_writable else "ro"
        if not is_writable and not log.exists() and _has_log(self._path):
            mode = "ro&immutable=1"  # of version 1; without its log, a file that nobody can write to does not change
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def _check(self, version: int) -> int:
        """The version, if it is one that can be read."""
        if not 0 <= version <= VERSION:
            raise JournalError(
                f"{JOURNAL} has version {version}, this secondlook reads up to {VERSION}: use a newer one"
            )
        if version == 0 and self._was_there:
            raise JournalError(
                f"{JOURNAL} is empty, and was not: put it back, or restart the server to go on without what it held"
            )
        self._was_there = self._was_there or version > 0
        return version

    def _set_aside(self, log: Path) -> None:
        """Move away the log of another journal: SQLite would lay it over this one."""
        if _has_log(self._path):
            return
        aside = log.with_name(f"{log.name}.of-another")
        with suppress(OSError):
            log.replace(aside)
            logger.warning("%s is not of %s, and was renamed to %s", log.name, JOURNAL, aside.name)

    def _refusal(self, error: sqlite3.Error) -> JournalError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        # Where there is no room for the rollback journal, SQLite may say that input or output failed.
        if code == sqlite3.SQLITE_FULL or (code & 0xFF == sqlite3.SQLITE_IOERR and self._free() < SCARCE_BYTES):
            return JournalFullError(f"{JOURNAL} cannot be written: the disk is full")
        if code & 0xFF == sqlite3.SQLITE_READONLY and self._place() is None:
            return JournalError(f"{JOURNAL} is gone: put it back, or restart the server to go on without what it held")
        return JournalError(f"{JOURNAL} cannot be used: {error}")

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._path.parent).free
        except OSError:
            return 0


def _why_not(folder: Path) -> str:
    """What keeps this user from writing to a folder."""
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return "the disk is read-only"
    except OSError as error:
        return str(error.strerror)
    return "the server's user may not write to the folder of bundles"


_HEADERS: dict[tuple[int, int], int] = {}
"""Descriptors of files whose header was read. To close one would let go of SQLite's locks on that file."""


def _has_log(path: Path) -> bool:
    """Whether a database says of itself that it has a write-ahead log."""
    try:
        found = path.stat()
        place = (found.st_dev, found.st_ino)
        if place not in _HEADERS:
            _HEADERS[place] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return os.pread(_HEADERS[place], 1, 18) == b"\x02"
    except OSError:
        return True


READING = ("BEGIN",)
CHANGING = (
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",  # what was removed is not left in the file
    "BEGIN IMMEDIATE",
)


def _begin(connection: sqlite3.Connection, statements: tuple[str, ...], wait: float) -> int:
    """Begin a transaction once others let it; the version that is there.

    SQLite's own way to wait looks again ever more rarely: one who writes without a pause would keep others out.
    """
    until = time.monotonic() + wait
    connection.execute("PRAGMA busy_timeout = 0")
    while True:
        try:
            for statement in statements:
                connection.execute(statement)
            (version,) = connection.execute("PRAGMA user_version").fetchone()  # takes the lock that it then keeps
            break
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(LOOK_AGAIN_SECONDS)
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * wait)}")
    return int(version)


def _upgrade(connection: sqlite3.Connection, wait: float) -> None:
    version = _begin(connection, CHANGING, wait)
    if version < VERSION:  # another process may have been first
        _bring_up_to_date(connection, version)
    connection.execute("COMMIT")


def _bring_up_to_date(connection: sqlite3.Connection, version: int) -> None:
    connection.create_function("fold", 1, fold, deterministic=True)
    _execute(connection, (_FROM_1 if version == 1 else _SCHEMA) + _MORE)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _execute(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):
        connection.execute(statement)

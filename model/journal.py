"""What people taught a root's caches: ``taught.sqlite``, beside the bundles and never inside one (docs/decisions/010).

It holds what is so now: the images that were taught, and what was decided about images of datasets. Each row carries
the number of the change that wrote it last, so that a server asks only for what came since; ``model.overlay`` lays it
over a generation. Beside it stands a trail of who did what and when, which nothing is computed from.

Every change is one transaction, on the disk before it returns (write-ahead log, full sync). Several processes of one
host may use it at once.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from model.cache import Floats
from model.errors import (
    JournalError,
    JournalFullError,
    LabelTakenError,
    RepeatedRequestError,
    TaughtLimitError,
)
from model.labels import check_label, fold

JOURNAL = "taught.sqlite"
VERSION = 1
BUSY_SECONDS = 20.0
"""How long a change waits for another process's."""
SCARCE_BYTES = 256 << 10
"""Of a disk with less room than this, a failure is put down to that."""
REMEMBERED_REQUESTS = 10_000
"""Answers kept for repeated requests; older ones are forgotten."""
SOURCE = "taught:"
"""What the source of a taught image begins with, where a rebuild has made an entry of it; its number follows."""

Action = Literal["taught", "relabelled", "removed"]

_SCHEMA = """
CREATE TABLE images (number INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT, name TEXT NOT NULL, content BLOB,
    change INTEGER NOT NULL) STRICT;
CREATE INDEX images_by_change ON images (change);
CREATE TABLE keys (image INTEGER NOT NULL, encoder TEXT NOT NULL, mirrored INTEGER NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (image, encoder, mirrored)) STRICT;
CREATE TABLE corrections (dataset TEXT NOT NULL, source TEXT NOT NULL, label TEXT, change INTEGER NOT NULL,
    PRIMARY KEY (dataset, source)) STRICT;
CREATE INDEX corrections_by_change ON corrections (change);
CREATE TABLE labels (position INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL UNIQUE,
    folded TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, key TEXT NOT NULL,
    action TEXT NOT NULL, image INTEGER, dataset TEXT, source TEXT NOT NULL, label TEXT, was TEXT) STRICT;
CREATE TABLE requests (key TEXT NOT NULL, request TEXT NOT NULL, digest BLOB NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (key, request)) STRICT;
"""


class NewImage(NamedTuple):
    """An image to be taught."""

    name: str
    """What to call it: a client's file name, cleaned."""
    content: bytes
    """An image's file, as it was sent."""
    keys: Mapping[tuple[str, bool], Floats] = {}
    """Keys (D,) by encoder and whether the image was mirrored, where they are known already."""


class TaughtImage(NamedTuple):
    """An image that was taught; of one that was removed again only the number is left."""

    number: int
    label: str | None
    """None = removed."""


class Correction(NamedTuple):
    """What was decided about an image of a dataset."""

    dataset: str
    source: str
    label: str | None
    """None = removed."""


class Changed(NamedTuple):
    """What differs from an earlier state."""

    change: int
    """Number of the newest change; 0 = none yet."""
    images: list[TaughtImage]
    corrections: list[Correction]
    labels: list[str]
    """Every label that was new to the root when it was given, in that order."""


class Change(NamedTuple):
    """A line of the trail."""

    number: int
    at: str
    """Time, ISO 8601, UTC."""
    key: str
    """Name of the key that it was done with."""
    action: Action
    image: int | None
    """Number of a taught image."""
    dataset: str | None
    source: str
    label: str | None
    was: str | None


class Request(NamedTuple):
    """A call that may be repeated: the same key and digest get the first one's answer."""

    id: str
    digest: bytes


class Taught(NamedTuple):
    """What teaching came to."""

    answer: str
    is_repeated: bool
    """Whether the call had been answered before, and nothing was done now."""


class Journal:
    """A root's journal; safe to use from several threads.

    One that is not there yet is made with the first change, and is empty until then.
    """

    def __init__(self, root: Path) -> None:
        """Open what is there.

        Raises:
            JournalError: it is damaged, or made by another version.
        """
        self._path = root / JOURNAL
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if self._path.exists():
            self._open()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    __del__ = close

    def newest(self) -> int:
        """Number of the newest change; 0 = none yet."""
        with self._reading() as read:
            return int(read("SELECT coalesce(max(number), 0) FROM changes")[0][0]) if read else 0

    def since(self, change: int) -> Changed:
        """All that was written by changes after that one."""
        with self._reading() as read:
            if not read:
                return Changed(0, [], [], [])
            return Changed(
                read("SELECT coalesce(max(number), 0) FROM changes")[0][0],
                [TaughtImage(*row) for row in read("SELECT number, label FROM images WHERE change > ?", change)],
                [
                    Correction(*row)
                    for row in read("SELECT dataset, source, label FROM corrections WHERE change > ?", change)
                ],
                [label for (label,) in read("SELECT label FROM labels ORDER BY position")],
            )

    def keys(self, encoder: str, since: int = 0) -> dict[tuple[int, bool], Floats]:
        """Keys (D,) that an encoder made of the images that changes after that one wrote, by number and mirrored."""
        with self._reading() as read:
            rows = read and read(
                "SELECT keys.image, mirrored, key FROM keys JOIN images ON images.number = keys.image "
                "WHERE encoder = ? AND change > ?",
                encoder,
                since,
            )
            return {(image, bool(mirrored)): np.frombuffer(key, "<f4") for image, mirrored, key in rows or ()}

    def content(self, number: int) -> bytes | None:
        """A taught image's bytes; None where there is none of that number, or it was removed."""
        with self._reading() as read:
            rows = read and read("SELECT content FROM images WHERE number = ?", number)
            return rows[0][0] if rows else None

    def name(self, number: int) -> str | None:
        """What a taught image was called."""
        with self._reading() as read:
            rows = read and read("SELECT name FROM images WHERE number = ?", number)
            return rows[0][0] if rows else None

    def changes(self, before: int | None = None, limit: int = 50) -> list[Change]:
        """The trail, newest first, from before that number on."""
        with self._reading() as read:
            rows = read and read(
                "SELECT * FROM changes WHERE number < ? ORDER BY number DESC LIMIT ?",
                2**62 if before is None else before,
                limit,
            )
            return [Change(*row) for row in rows or ()]

    def answered(self, key: str, request: Request) -> str | None:
        """What a request was answered that is repeated now; None where it is the first.

        Raises:
            RepeatedRequestError: its id was used for something else.
        """
        with self._reading() as read:
            rows = read and read("SELECT digest, answer FROM requests WHERE key = ? AND request = ?", key, request.id)
            return _same(rows[0], request) if rows else None

    def teach(
        self,
        label: str,
        images: Sequence[NewImage],
        key: str,
        *,
        known: Sequence[str] = (),
        most: int | None = None,
        request: Request | None = None,
        answer: Callable[[list[int], int], str] = lambda numbers, change: "",
    ) -> Taught:
        """Keep images under a label; all of them or none.

        ``known`` are the labels of the generation that answers, ``most`` is how many images may be kept in all.
        ``answer`` makes what a repeated request is answered from the images' numbers and the change's.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
            TaughtLimitError: there would be more than ``most``.
            RepeatedRequestError: the request's id was used for something else.
            JournalFullError: the disk is full. JournalError: it cannot be written.
        """
        check_label(label, known)
        with self._changing() as run:
            if request is not None:
                seen = run("SELECT digest, answer FROM requests WHERE key = ? AND request = ?", key, request.id)
                if (first := seen.fetchone()) is not None:
                    return Taught(_same(first, request), is_repeated=True)
            if most is not None:
                kept = run("SELECT count(*) FROM images WHERE label IS NOT NULL").fetchone()[0]
                if kept + len(images) > most:
                    raise TaughtLimitError(kept, most)
            _note_label(run, label, known)
            numbers, change = [], 0
            for image in images:
                row = run("INSERT INTO images (label, name, content, change) VALUES (?, ?, ?, 0)", label, *image[:2])
                number = row.lastrowid
                assert number is not None
                source = f"{SOURCE}{number}"
                change = _trail(run, key, "taught", image=number, source=source, label=label)
                run("UPDATE images SET change = ? WHERE number = ?", change, number)
                for (encoder, mirrored), made in image.keys.items():
                    _keep_key(run, number, encoder, mirrored, made)
                numbers.append(number)
            made_answer = answer(numbers, change)
            if request is not None:
                run("INSERT INTO requests VALUES (?, ?, ?, ?)", key, request.id, request.digest, made_answer)
                run("DELETE FROM requests WHERE rowid <= (SELECT max(rowid) FROM requests) - ?", REMEMBERED_REQUESTS)
            return Taught(made_answer, is_repeated=False)

    def keep_keys(self, encoder: str, keys: Mapping[tuple[int, bool], Floats]) -> None:
        """Keep the keys that an encoder made of taught images, by number and mirrored; an image has each once.

        Raises:
            JournalFullError: the disk is full. JournalError: it cannot be written.
        """
        with self._changing() as run:
            for (number, mirrored), key in keys.items():
                _keep_key(run, number, encoder, mirrored, key)

    def decide_image(self, number: int, label: str | None, key: str, known: Sequence[str] = ()) -> bool:
        """Give a taught image another label, or (None) remove it; whether there was such an image.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
            JournalFullError: the disk is full. JournalError: it cannot be written.
        """
        if label is not None:
            check_label(label, known)
        with self._changing() as run:
            row = run("SELECT label FROM images WHERE number = ?", number).fetchone()
            if row is None or row[0] is None:
                return False
            if row[0] == label:
                return True
            _note_label(run, label, known)
            action: Action = "removed" if label is None else "relabelled"
            change = _trail(run, key, action, image=number, source=f"{SOURCE}{number}", label=label, was=row[0])
            run("UPDATE images SET label = ?, change = ? WHERE number = ?", label, change, number)
            if label is None:
                run("UPDATE images SET content = NULL WHERE number = ?", number)
                run("DELETE FROM keys WHERE image = ?", number)
            return True

    def decide(
        self, dataset: str, source: str, label: str | None, key: str, *, was: str, known: Sequence[str] = ()
    ) -> None:
        """Give an image of a dataset another label, or (None) remove it. ``was`` is its label until now, for the trail.

        Raises:
            ParameterError, LabelTakenError: as ``check_label``.
            JournalFullError: the disk is full. JournalError: it cannot be written.
        """
        if label is not None:
            check_label(label, known)
        with self._changing() as run:
            _note_label(run, label, known)
            action: Action = "removed" if label is None else "relabelled"
            change = _trail(run, key, action, dataset=dataset, source=source, label=label, was=was)
            run("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?)", dataset, source, label, change)

    @contextmanager
    def _reading(self) -> Iterator[Callable[..., list[tuple]] | None]:  # type: ignore[type-arg]
        """A way to ask, all of it answered from one state; None where there is no journal yet."""
        with self._lock:
            if self._connection is None and self._path.exists():
                self._open()
            connection = self._connection
            if connection is None:
                yield None
                return
            try:
                connection.execute("BEGIN")
                try:
                    yield lambda sql, *given: connection.execute(sql, given).fetchall()
                finally:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise JournalError(f"{JOURNAL} cannot be read: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """A way to change it, in one transaction that is on the disk when the block ends."""
        with self._lock:
            if self._connection is None:
                self._open(create=True)
            connection = self._connection
            assert connection is not None
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield lambda sql, *given: connection.execute(sql, given)
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        with suppress(sqlite3.Error):  # a full disk ends it by itself
                            connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._refusal(error) from error

    def _open(self, *, create: bool = False) -> None:
        """Connect; a root that cannot be written is read all the same."""
        if create and not self._path.exists():
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch()
            except OSError as error:
                raise JournalError(f"{JOURNAL} cannot be written: {error.strerror}") from error
        is_writable = os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)
        # Without its log, a file that nobody can write to does not change.
        alone = "&immutable=1" if not self._path.with_name(f"{JOURNAL}-wal").exists() else ""
        uri = self._path.resolve().as_uri() + ("?mode=rw" if is_writable else f"?mode=ro{alone}")
        try:
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                if is_writable:
                    _prepare(connection)
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version not in (0, VERSION):
                    raise JournalError(f"{JOURNAL} has version {version}, this secondlook reads {VERSION}")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        if version == VERSION:
            self._connection = connection
        else:  # its first writer died before it began, and nobody may write here
            connection.close()

    def _refusal(self, error: sqlite3.Error) -> JournalError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        # Where there is no room for its shared memory, SQLite says that input or output failed.
        if code == sqlite3.SQLITE_FULL or (code & 0xFF == sqlite3.SQLITE_IOERR and self._free() < SCARCE_BYTES):
            return JournalFullError(f"{JOURNAL} cannot be written: the disk is full")
        return JournalError(f"{JOURNAL} cannot be used: {error}")

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._path.parent).free
        except OSError:
            return 0


def _same(first: tuple[bytes, str], request: Request) -> str:
    if first[0] != request.digest:
        raise RepeatedRequestError
    return first[1]


def _prepare(connection: sqlite3.Connection) -> None:
    """Have the tables there, and every change on the disk before it is acknowledged."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what was removed is not left in the file
    if connection.execute("PRAGMA user_version").fetchone() != (0,):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone() == (0,):  # another process may have been first
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _note_label(run: Callable[..., sqlite3.Cursor], label: str | None, known: Sequence[str]) -> None:
    """Keep a label that is new, unless another one is taken for it that another process has just given."""
    if label is None or label in known:
        return
    taken = run("SELECT label FROM labels WHERE folded = ?", fold(label)).fetchone()
    if taken is None:
        run("INSERT INTO labels (label, folded) VALUES (?, ?)", label, fold(label))
    elif taken[0] != label:
        used = "SELECT 1 FROM images WHERE label = ? UNION ALL SELECT 1 FROM corrections WHERE label = ?"
        if run(used, taken[0], taken[0]).fetchone() is not None:
            raise LabelTakenError(taken[0])
        run("UPDATE labels SET label = ? WHERE label = ?", label, taken[0])


def _keep_key(run: Callable[..., sqlite3.Cursor], number: int, encoder: str, mirrored: bool, key: Floats) -> None:
    # Not for an image that was removed meanwhile.
    run(
        "INSERT OR IGNORE INTO keys SELECT number, ?, ?, ? FROM images WHERE number = ? AND label IS NOT NULL",
        encoder,
        int(mirrored),
        np.ascontiguousarray(key, "<f4").tobytes(),
        number,
    )


def _trail(
    run: Callable[..., sqlite3.Cursor],
    key: str,
    action: Action,
    *,
    source: str,
    image: int | None = None,
    dataset: str | None = None,
    label: str | None,
    was: str | None = None,
) -> int:
    """Write a line of the trail; its number."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sql = "INSERT INTO changes (at, key, action, image, dataset, source, label, was) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    number = run(sql, at, key, action, image, dataset, source, label, was).lastrowid
    assert number is not None
    return number

"""Where each cached entry came from: ``entries.sqlite`` of a bundle."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from model.errors import BundleError


class Entry(NamedTuple):
    """One entry, without its key."""

    id: int
    source: str
    value: int
    mirrored: bool
    thumbnail: bytes | None
    """A small JPEG, where the bundle has them."""


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write a new file of entries.

    Raises:
        BundleError: the disk is full, or cannot be written.
    """
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(
            "CREATE TABLE entries (id INTEGER PRIMARY KEY, source TEXT NOT NULL, value INTEGER NOT NULL, "
            "mirrored INTEGER NOT NULL, thumbnail BLOB) STRICT"
        )
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", entries)
        connection.commit()
    except sqlite3.Error as error:
        raise BundleError(f"{path.name} could not be written: {error}") from error
    finally:
        connection.close()


class Entries:
    """Read access to a bundle's entries, from any thread.

    Raises:
        BundleError: the file is not a table of entries.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            # Immutable: no locks and no journal, so a read-only file system does.
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            (self.count,) = self._connection.execute("SELECT count(*) FROM entries").fetchone()
        except sqlite3.Error as error:
            raise BundleError(f"{path.name} is not a table of entries") from error

    def get(self, entry_id: int) -> Entry | None:
        """One entry, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT id, source, value, mirrored, thumbnail FROM entries WHERE id = ?", (entry_id,)
            ).fetchone()
        return Entry(row[0], row[1], row[2], bool(row[3]), row[4]) if row else None

    def sources(self) -> list[str]:
        """Every entry's source, in id order."""
        with self._lock:
            return [source for (source,) in self._connection.execute("SELECT source FROM entries ORDER BY id")]

    def __del__(self) -> None:
        # A generation that was replaced goes with its last answer, wherever that is.
        if hasattr(self, "_connection"):
            self._connection.close()

"""Where each cached entry came from: ``entries.sqlite`` of a bundle."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.model.errors import BundleError


class Entry(NamedTuple):
    """One entry, without its key."""

    id: int
    source: str
    value: int
    mirrored: bool
    sheet: int | None
    """The contact sheet that shows it, where the bundle has them."""
    place: int = 0
    """Which of the sheet's pictures it is."""


SIDE = 128
"""Pixels of a thumbnail, at most."""
SHEET_QUALITY = 85
ENTRIES_AT_ONCE = 4096
"""Entries written at once; of so many, and of as many before, it is known which images they are of."""
SOURCES_AT_ONCE = 500
"""Sources in one query of SQLite, which takes 999 at least."""


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the thumbnail of a picture of that size."""
    share = min(1.0, SIDE / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def contact_sheet(images: NDArray[np.uint8]) -> bytes:
    """Thumbnails of pictures (B,h,w,3), one below the other, as one JPEG.

    One file for many costs a quarter of the time and two fifths of the bytes of one for each.
    """
    count, *size, _ = images.shape
    height, width = thumbnail_size(*size)
    if (height, width) != tuple(size):
        # A JPEG is at most 65,500 pixels high, and the whole sheet is decoded for each of its pictures.
        reduced = [Image.fromarray(image).resize((width, height)) for image in images]
        images = np.stack([np.asarray(image) for image in reduced])
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(count * height, width, 3)).save(buffer, "JPEG", quality=SHEET_QUALITY)
    return buffer.getvalue()


def write_entries(path: Path, entries: Iterable[Entry], sheets: Iterable[bytes], height: int) -> None:
    """Write a new file of entries, and their contact sheets of thumbnails of that height.

    Raises:
        BundleError: the disk is full, or cannot be written.
    """
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        # A mirrored copy, which is never far behind its image, shares the row of that.
        connection.execute(
            "CREATE TABLE images (id INTEGER PRIMARY KEY, source TEXT NOT NULL, value INTEGER NOT NULL) STRICT"
        )
        connection.execute(
            "CREATE TABLE entries (id INTEGER PRIMARY KEY, image INTEGER NOT NULL, mirrored INTEGER NOT NULL, "
            "sheet INTEGER, place INTEGER NOT NULL) STRICT"
        )
        connection.execute(
            "CREATE TABLE sheets (id INTEGER PRIMARY KEY, height INTEGER NOT NULL, jpeg BLOB NOT NULL) STRICT"
        )
        images, count = dict[tuple[str, int], int](), 0
        left = iter(entries)
        while some := list(islice(left, ENTRIES_AT_ONCE)):
            before, images = images, {}
            for entry in some:
                of = entry.source, entry.value
                if of not in images:
                    images[of] = before.get(of, count)
                    count += images[of] == count
            new = ((image, *of) for of, image in images.items() if of not in before)
            connection.executemany("INSERT INTO images VALUES (?, ?, ?)", new)
            connection.executemany(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
                ((e.id, images[e.source, e.value], e.mirrored, e.sheet, e.place) for e in some),
            )
        connection.executemany(
            "INSERT INTO sheets VALUES (?, ?, ?)", ((i, height, sheet) for i, sheet in enumerate(sheets))
        )
        connection.commit()
    except sqlite3.Error as error:
        raise BundleError(f"{path.name} could not be written: {error}") from error
    finally:
        connection.close()


_ENTRY = (
    "SELECT entries.id, source, value, mirrored, sheet, place FROM entries JOIN images ON images.id = entries.image"
)


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
            self._connection.execute(f"{_ENTRY} LIMIT 0")
        except sqlite3.Error as error:
            raise BundleError(f"{path.name} is not a table of entries") from error

    def get(self, entry_id: int) -> Entry | None:
        """One entry, or None."""
        found = self._where("entries.id = ?", entry_id)
        return found[0] if found else None

    def of_sources(self, sources: Collection[str]) -> list[Entry]:
        """The entries of some images, mirrored copies among them, in id order."""
        found: list[Entry] = []
        named = sorted(sources)
        for start in range(0, len(named), SOURCES_AT_ONCE):
            some = named[start : start + SOURCES_AT_ONCE]
            found += self._where(f"source IN ({', '.join('?' * len(some))})", *some)
        return sorted(found)

    def beginning_with(self, prefix: str) -> list[Entry]:
        """The entries whose source begins with that text, in id order."""
        return self._where("substr(source, 1, ?) = ?", len(prefix), prefix)

    def _where(self, condition: str, *given: object) -> list[Entry]:
        with self._lock:
            rows = self._connection.execute(f"{_ENTRY} WHERE {condition} ORDER BY entries.id", given).fetchall()
        return [Entry(row[0], row[1], row[2], bool(row[3]), *row[4:]) for row in rows]

    def thumbnail(self, entry: Entry) -> bytes | None:
        """A small PNG of an entry's image, where the bundle has them."""
        with self._lock:
            row = self._connection.execute("SELECT height, jpeg FROM sheets WHERE id = ?", (entry.sheet,)).fetchone()
        if row is None:
            return None
        height, jpeg = row
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as sheet:
            sheet.crop((0, entry.place * height, sheet.width, (entry.place + 1) * height)).save(buffer, "PNG")
        return buffer.getvalue()

    def sources(self) -> list[str]:
        """Every entry's source, in id order."""
        with self._lock:
            return [row[1] for row in self._connection.execute(f"{_ENTRY} ORDER BY entries.id")]

    def mirrored(self) -> NDArray[np.bool_]:
        """Whether each entry is a mirrored copy: (N,), in id order."""
        with self._lock:
            rows = self._connection.execute("SELECT mirrored FROM entries ORDER BY id").fetchall()
        return np.array(rows, bool).reshape(-1)

    def __del__(self) -> None:
        # A generation that was replaced goes with its last answer, wherever that is.
        if hasattr(self, "_connection"):
            self._connection.close()

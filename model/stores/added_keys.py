"""The keys of added images, in buffers that many overlays share.

A buffer is written behind what anybody reads of it, and never elsewhere: so each state has its own number of rows, and
what comes next costs what it has itself, and not what is there already. An image that is removed or has another label
keeps its rows, and the difference is noted beside them, until there is so much of it that the rest is copied.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from secondlook.model.cache import Floats, Ints
from secondlook.model.stores.corrections import REMOVED, Corrections

FIRST_ID = 1 << 40
"""Ids of taught entries begin here: no generation has so many of its own."""
FEWEST_ROWS = 256
"""Rows for which a buffer has room at first, and that may be dead before the others are copied."""


def added_id(number: int, *, mirrored: bool = False) -> int:
    """The entry's id of a taught image, or of its mirrored copy."""
    return FIRST_ID + 2 * number + int(mirrored)


def number_of(entry_id: int) -> int | None:
    """The number of the taught image of an entry; None for an entry of a generation's own."""
    return (entry_id - FIRST_ID) // 2 if entry_id >= FIRST_ID else None


class Copies(NamedTuple):
    """A taught image's entries."""

    code: int
    """Of its label."""
    ids: Ints
    """(c,) ascending."""
    keys: Floats
    """(c,D)."""


class _Buffer:
    """Rows that are appended to, by whoever comes first: another one behind the same row gets a buffer of its own."""

    def __init__(self, room: int, dim: int) -> None:
        self.keys, self.ids = np.empty((room, dim), np.float32), np.empty(room, np.int64)
        self.codes = np.empty(room, np.int64)
        self._used = 0
        self._lock = threading.Lock()

    def append(self, at: int, ids: Ints, codes: Ints, keys: Floats) -> _Buffer:
        """A buffer that has those rows from ``at`` on, behind what this one has before."""
        end = at + len(ids)
        with self._lock:
            if self._used == at and end <= len(self.ids):
                self._write(at, ids, codes, keys)
                return self
        grown = _Buffer(max(2 * end, FEWEST_ROWS), keys.shape[1])
        grown._write(0, self.ids[:at], self.codes[:at], self.keys[:at])
        grown._write(at, ids, codes, keys)
        return grown

    def _write(self, at: int, ids: Ints, codes: Ints, keys: Floats) -> None:
        rows = slice(at, at + len(ids))
        self.ids[rows], self.codes[rows], self.keys[rows] = ids, codes, keys
        self._used = rows.stop


@dataclass(frozen=True)
class AddedKeys:
    """The entries of added images at one time: rows by ascending id, and corrections of them since."""

    dim: int
    rows: int = 0
    corrections: Corrections = field(default_factory=Corrections)
    images: int = 0
    """How many images have an entry."""
    uses: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(codes,) entries of each label; those behind its end have none."""
    _buffer: _Buffer | None = None

    @classmethod
    def of(cls, ids: Ints, codes: Ints, keys: Floats) -> AddedKeys:
        """Entries (n,), (n,) and (n,D), by ascending id."""
        uses, images = np.bincount(codes), len(np.unique((ids - FIRST_ID) // 2))
        return cls(keys.shape[1], images=images, uses=uses)._appended(ids, codes, keys)

    @property
    def keys(self) -> Floats:
        """(rows,D), of removed entries too; not to be written to."""
        return self._buffer.keys[: self.rows] if self._buffer else np.empty((0, self.dim), np.float32)

    @property
    def ids(self) -> Ints:
        """(rows,) ascending."""
        return self._buffer.ids[: self.rows] if self._buffer else np.empty(0, np.int64)

    @property
    def codes(self) -> Ints:
        """(rows,) of the labels that entries had when they came."""
        return self._buffer.codes[: self.rows] if self._buffer else np.empty(0, np.int64)

    @property
    def count(self) -> int:
        """How many entries there are."""
        return self.rows - len(self.corrections.removed)

    def row_of(self, entry_id: int) -> int | None:
        """Where an entry is; None where there is none of that id, or it is removed."""
        row = int(np.searchsorted(self.ids, entry_id))
        if row == self.rows or self.ids[row] != entry_id or self.corrections.get(row) == REMOVED:
            return None
        return row

    def has(self, number: int) -> bool:
        """Whether an image has an entry."""
        return any(self.row_of(added_id(number, mirrored=mirrored)) is not None for mirrored in (False, True))

    def code(self, row: int) -> int:
        """The label's that an entry has now."""
        corrections = self.corrections.get(row)
        return int(self.codes[row]) if corrections is None else corrections

    def now(self) -> tuple[Ints, Ints, Floats]:
        """Ids (n,), codes (n,) and keys (n,D) of all entries, by ascending id."""
        codes = self.codes.copy()
        codes[self.corrections.positions] = self.corrections.codes
        live = codes != REMOVED
        if live.all():
            return self.ids, codes, self.keys
        return self.ids[live], codes[live], self.keys[live]

    def __iter__(self) -> Iterator[tuple[int, Copies]]:
        """Every image's number and entries, by ascending number."""
        ids, codes, keys = self.now()
        edges = [*np.flatnonzero(np.diff((ids - FIRST_ID) // 2, prepend=-1)).tolist(), len(ids)]
        for start, end in pairwise(edges):
            yield (int(ids[start]) - FIRST_ID) // 2, Copies(int(codes[start]), ids[start:end], keys[start:end])

    def changed(self, images: Mapping[int, Copies | int | None]) -> AddedKeys:
        """With some images' entries as given, by number: entries, another label's code, or None = removed.

        One that has no entries yet gets none by another code.
        """
        codes: dict[int, int | None] = {}
        new: list[Copies] = []
        uses: Counter[int] = Counter()
        count = self.images
        for number, now in sorted(images.items()):
            first = int(np.searchsorted(self.ids, added_id(number)))
            rows = [row for row in range(first, min(first + 2, self.rows)) if self.ids[row] < added_id(number + 1)]
            rows = [row for row in rows if self.corrections.get(row) != REMOVED]
            if isinstance(now, Copies):
                uses[now.code] += len(now.ids)
                new.append(now)
            code = now if isinstance(now, int) else REMOVED
            for row in rows:
                uses[self.code(row)] -= 1
                if code != REMOVED:
                    uses[code] += 1
                codes[row] = code
            count += isinstance(now, Copies) - bool(rows and code == REMOVED)
        then = replace(self, corrections=self.corrections.changed(codes), uses=counted(self.uses, uses), images=count)
        if len(then.corrections) > max(FEWEST_ROWS, self.rows // 8):
            then = then._copied()
        return then._with(new) if new else then

    def without(self, rows: Ints) -> AddedKeys:
        """Less the entries at those rows, to be searched; images and uses are those of all."""
        return replace(self, corrections=self.corrections.without(rows))

    def _with(self, new: list[Copies]) -> AddedKeys:
        ids = np.concatenate([copies.ids for copies in new])
        keys = np.concatenate([copies.keys for copies in new])
        codes = np.repeat([copies.code for copies in new], [len(copies.ids) for copies in new])
        if not self.rows or ids[0] > self.ids[-1]:
            return self._appended(ids, codes, keys)
        # Embedded later than others that were taught after it.
        own_ids, own_codes, own_keys = self.now()
        ids, codes = np.concatenate((own_ids, ids)), np.concatenate((own_codes, codes))
        order = np.argsort(ids, kind="stable")
        keys = np.concatenate((own_keys, keys))[order]
        return replace(self, rows=0, corrections=Corrections(), _buffer=None)._appended(ids[order], codes[order], keys)

    def _copied(self) -> AddedKeys:
        return replace(self, rows=0, corrections=Corrections(), _buffer=None)._appended(*self.now())

    def _appended(self, ids: Ints, codes: Ints, keys: Floats) -> AddedKeys:
        buffer = self._buffer or _Buffer(FEWEST_ROWS, self.dim)
        return replace(self, rows=self.rows + len(ids), _buffer=buffer.append(self.rows, ids, codes, keys))


def counted(counts: Ints, more: Mapping[int, int]) -> Ints:
    """Counts by code, with some increased."""
    if not more:
        return counts
    then = np.zeros(max(len(counts), 1 + max(more)), np.int64)
    then[: len(counts)] = counts
    for code, by in more.items():
        then[code] += by
    return then

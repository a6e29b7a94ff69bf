"""Corrections of a store's entries: which are removed, and which vote for another class than their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Ints

REMOVED = -1
"""The code of an entry that is removed; others are those of labels."""
_NONE: Ints = np.empty(0, np.int64)


@dataclass(frozen=True)
class Corrections:
    """Codes by position. Immutable; a changed copy takes microseconds, however many there are."""

    positions: Ints = field(default_factory=lambda: _NONE)
    """(n,) ascending."""
    codes: Ints = field(default_factory=lambda: _NONE)
    """(n,)."""

    def __len__(self) -> int:
        return len(self.positions)

    def get(self, position: int) -> int | None:
        """The code of an entry; None where it has no correction."""
        at = int(np.searchsorted(self.positions, position))
        return int(self.codes[at]) if at < len(self.positions) and self.positions[at] == position else None

    def changed(self, codes: Mapping[int, int | None]) -> Corrections:
        """A copy with other codes at some positions; None = no correction there any more."""
        if not codes:
            return self
        touched = np.array(sorted(codes), np.int64)
        at = np.searchsorted(self.positions, touched)
        is_there = at < len(self.positions)
        is_there[is_there] = self.positions[at[is_there]] == touched[is_there]
        positions, own = np.delete(self.positions, at[is_there]), np.delete(self.codes, at[is_there])
        new = [(position, code) for position, code in sorted(codes.items()) if code is not None]
        added = np.array([position for position, _ in new], np.int64)
        places = np.searchsorted(positions, added)
        return Corrections(np.insert(positions, places, added), np.insert(own, places, [code for _, code in new]))

    def without(self, positions: Ints) -> Corrections:
        """A copy with the entries at those positions removed."""
        others = ~np.isin(self.positions, positions)
        every = np.concatenate((self.positions[others], positions))
        codes = np.concatenate((self.codes[others], np.full(len(positions), REMOVED)))
        order = np.argsort(every, kind="stable")
        return Corrections(every[order], codes[order])

    @cached_property
    def removed(self) -> Ints:
        """(r,) positions of the removed ones, ascending."""
        removed: Ints = self.positions[self.codes == REMOVED]
        return removed

    def is_removed(self, positions: Ints) -> NDArray[np.bool_]:
        """Whether each of those is removed."""
        if not len(self.removed):
            return np.zeros(positions.shape, bool)
        at = np.minimum(np.searchsorted(self.removed, positions), len(self.removed) - 1)
        return np.asarray(self.removed[at] == positions)

    def labelled(self, positions: Ints, values: Ints, class_of: Ints) -> Ints:
        """The values of entries at those positions as they are now; ``class_of`` gives each code's class."""
        if not len(self.positions):
            return values
        at = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        is_other = (self.positions[at] == positions) & (self.codes[at] != REMOVED)
        now: Ints = np.where(is_other, class_of[self.codes[at]], values)
        return now

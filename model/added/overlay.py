"""A journal's changes laid over a generation: its store and the added keys are searched as if they were one index.

Nothing here changes once made. A live FAISS index is never mutated; whoever answers gets another overlay instead, and
the k nearest entries of the generation and of the taught keys are merged. Overlays share what they have in common, so
that one more image costs what it costs itself. The difference is one of states: it does not matter which changes a
generation's rebuild had seen (docs/decisions/010).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.cache import Floats, Ints, class_weights
from secondlook.model.journal import SOURCE
from secondlook.model.labels import new_labels
from secondlook.model.stores.added_keys import (
    AddedKeys,
    Copies,
    added_id,
    counted,
    number_of,
)
from secondlook.model.stores.corrections import REMOVED, Corrections
from secondlook.model.stores.merged_store import MergedStore
from secondlook.model.stores.store import Store


class _Codes:
    """Numbers labels in the order in which they are met, a generation's classes first; a number never changes."""

    def __init__(self, classes: Iterable[str]) -> None:
        self.labels: list[str] = []
        self._codes: dict[str, int] = {}
        for label in classes:
            self.of(label)

    def of(self, label: str) -> int:
        """The label's number; it gets one where it has none."""
        code = self._codes.get(label)
        if code is None:
            code = self._codes[label] = len(self.labels)
            self.labels.append(label)
        return code


@dataclass(frozen=True)
class Overlay:
    """What a journal changes in a generation."""

    bundle: Bundle
    change: int = 0
    """The newest change that is in it."""
    token: bytes = b""
    """That change's own."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Labels that were ever new to the root, by place in the order in which they were given."""
    waiting: Mapping[int, str] = field(default_factory=dict)
    """Labels of taught images that are still to be embedded, by number."""
    added: AddedKeys = None  # type: ignore[assignment]  # made below
    """Entries of images that the generation does not have itself."""
    corrections: Corrections = field(default_factory=Corrections)
    """Of the generation's own entries: codes of their labels now, by position."""
    lost: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(C,) own entries of each class that are removed or relabelled; classes behind its end lost none."""
    gained: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(codes,) own entries that were relabelled to each label."""
    _codes: _Codes = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.added is None:
            object.__setattr__(self, "added", AddedKeys(self.bundle.store.dim))
        if self._codes is None:
            object.__setattr__(self, "_codes", _Codes(self.bundle.manifest.classes))

    @cached_property
    def _used(self) -> Ints:
        """(codes,) entries that have each label because of the journal."""
        used = np.zeros(max(len(self.added.uses), len(self.gained)), np.int64)
        used[: len(self.added.uses)] += self.added.uses
        used[: len(self.gained)] += self.gained
        return used

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The generation's classes, then the added ones."""
        own = self.bundle.manifest.classes
        used = {self._codes.labels[code] for code in np.flatnonzero(self._used).tolist()}
        if used <= set(own):
            return own
        given = [self.labels[place] for place in sorted(self.labels)]
        return (*own, *new_labels(given, used, own))

    @cached_property
    def store(self) -> Store:
        """The generation's store with the journal's changes."""
        base = self.bundle.store
        if not self.added.count and not len(self.corrections):
            return base
        return MergedStore(base, self.added, self.corrections, self._class_of)

    @cached_property
    def _class_of(self) -> Ints:
        """(codes,) the class of each label; 0 where no entry has it."""
        # One that others add meanwhile is no label of this overlay's.
        return np.array([self.index.get(label, 0) for label in self._codes.labels[: max(1, len(self._used))]], np.int64)

    @cached_property
    def ids(self) -> Ints:
        """(N,) ids of all entries, in the order of the store's values."""
        return self.store.ids if isinstance(self.store, MergedStore) else np.arange(self.store.count)

    @property
    def folded_ids(self) -> list[int]:
        """Ids of the generation's own entries that were added once and folded in, ascending."""
        return sorted(entry.id for own in self.bundle.folded.values() for entry in own)

    @property
    def removed(self) -> int:
        """How many of the generation's own entries are removed."""
        return len(self.corrections.removed)

    @property
    def relabelled(self) -> int:
        """How many of the generation's own entries have another label."""
        return len(self.corrections) - self.removed

    def label(self, code: int) -> str | None:
        """A label by its code; None for that of removed entries."""
        return None if code == REMOVED else self._codes.labels[code]

    def label_of(self, entry_id: int) -> str | None:
        """What an entry shows; None where there is none, or it is removed. Reads no file."""
        if number_of(entry_id) is not None:
            row = self.added.row_of(entry_id)
            return None if row is None else self.label(self.added.code(row))
        if not 0 <= entry_id < self.bundle.store.count:
            return None
        code = self.corrections.get(entry_id)
        return self.label(int(self.bundle.store.values[entry_id]) if code is None else code)

    def entry(self, entry_id: int) -> Entry | None:
        """One entry with the class that it votes for; None where there is none, or it is removed."""
        number = number_of(entry_id)
        if number is not None:
            row = self.added.row_of(entry_id)
            if row is None:
                return None
            value = int(self._class_of[self.added.code(row)])
            return Entry(entry_id, f"{SOURCE}{number}", value, entry_id != added_id(number), None)
        entry, code = self.bundle.entries.get(entry_id), self.corrections.get(entry_id)
        if entry is None or code is None:
            return entry
        return None if code == REMOVED else entry._replace(value=int(self._class_of[code]))

    @cached_property
    def counts(self) -> Ints:
        """(C,) entries of each class."""
        counts = np.zeros(len(self.classes), np.int64)
        counts[: len(self.bundle.counts)] = self.bundle.counts
        counts[: len(self.lost)] -= self.lost
        codes = np.flatnonzero(self._used)  # others may be of no class any more
        np.add.at(counts, self._class_of[codes], self._used[codes])
        return counts

    @cached_property
    def class_weights(self) -> NDArray[np.float64] | None:
        """How much an entry of each class counts in the vote (C,); None where all count the same."""
        return class_weights(self.counts, self.bundle.manifest.equal_classes)

    @cached_property
    def index(self) -> dict[str, int]:
        """Each class's number."""
        return {label: value for value, label in enumerate(self.classes)}

    def changed(
        self,
        change: int,
        token: bytes,
        *,
        labels: Mapping[int, str | None],
        images: Mapping[int, tuple[str, Mapping[bool, Floats]] | None],
        corrections: Mapping[int, str | None],
    ) -> Overlay:
        """The overlay after a later change.

        ``labels`` are new ones by place (None = there is none any more), ``images`` the labels of taught images that
        changed, with keys (D,) by whether a copy is mirrored; None = removed. One without keys keeps those that it has,
        or waits for some. ``decided`` are the labels of the generation's own entries now, by position, None = removed.
        """
        added, waiting = {}, {number: self.waiting[number] for number in self.waiting if number not in images}
        for number, now in sorted(images.items()):
            added[number], label = self._copies(number, now)
            if label is not None:
                waiting[number] = label
        codes: dict[int, int | None] = {}
        lost: Counter[int] = Counter()
        gained: Counter[int] = Counter()
        for position, label in corrections.items():
            own, before = int(self.bundle.store.values[position]), self.corrections.get(position)
            code = REMOVED if label is None else self._codes.of(label)
            codes[position] = None if code == own else code
            for was, by in ((own if before is None else before, -1), (code, 1)):
                if was == own:
                    lost[own] -= by
                elif was != REMOVED:
                    gained[was] += by
        named = self.labels
        if labels:
            named = {place: label for place, label in {**named, **labels}.items() if label is not None}
        return replace(
            self,
            change=change,
            token=token,
            labels=named,
            waiting=waiting,
            added=self.added.changed(added),
            corrections=self.corrections.changed(codes),
            lost=counted(self.lost, lost),
            gained=counted(self.gained, gained),
        )

    def _copies(
        self, number: int, now: tuple[str, Mapping[bool, Floats]] | None
    ) -> tuple[Copies | int | None, str | None]:
        """The new state of an added image's entries, and the label under which it waits for keys."""
        if now is None:
            return None, None
        label, keys = now
        if self.added.has(number):
            return self._codes.of(label), None
        if not keys:
            return None, label
        ids = np.array([added_id(number, mirrored=mirrored) for mirrored in sorted(keys)], np.int64)
        return Copies(self._codes.of(label), ids, np.stack([keys[mirrored] for mirrored in sorted(keys)])), None

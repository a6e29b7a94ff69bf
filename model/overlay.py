"""What was taught, laid over a generation: its store and the journal searched as if they were one index.

Nothing here changes once made. A live FAISS index is never mutated; whoever answers gets another overlay instead, and
the k nearest entries of the generation and of the taught keys are merged. The difference is one of states: it does not
matter which changes a generation's rebuild had seen (docs/decisions/010).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.bundle import ENCODER, Bundle
from model.cache import Floats, Ints, class_weights
from model.entries import Entry
from model.errors import ImageError, JournalError
from model.images import DEFAULT_PIXELS, Limits, decode
from model.journal import SOURCE, Changed, Journal
from model.labels import new_labels
from model.overlaid_store import OverlaidStore
from model.stores import Store

logger = logging.getLogger(__name__)

FIRST_ID = 1 << 40
"""Ids of taught entries begin here: no generation has so many of its own."""
BATCH = 64
"""Images embedded at once."""


def taught_id(number: int, *, mirrored: bool = False) -> int:
    """The entry's id of a taught image, or of its mirrored copy."""
    return FIRST_ID + 2 * number + int(mirrored)


def number_of(entry_id: int) -> int | None:
    """The number of the taught image of an entry; None for an entry of a generation's own."""
    return (entry_id - FIRST_ID) // 2 if entry_id >= FIRST_ID else None


@dataclass(frozen=True)
class Overlay:
    """What a journal changes in a generation.

    ``added`` are the label and the keys (copies,D) of each taught image that the generation does not have itself, by
    number; ``decided`` are the labels (None = removed) of its own entries that are others now, by position.
    """

    bundle: Bundle
    change: int = 0
    """The newest change that is in it."""
    labels: tuple[str, ...] = ()
    """Those that were ever new to the root, in order."""
    added: Mapping[int, tuple[str, Floats]] = field(default_factory=dict)
    decided: Mapping[int, str | None] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The generation's, then those that were taught."""
        own = self.bundle.manifest.classes
        used = {label for label, _ in self.added.values()} | {label for label in self.decided.values() if label}
        return (*own, *new_labels(self.labels, used, own))

    @cached_property
    def store(self) -> Store:
        """The generation's store as the journal has it."""
        base = self.bundle.store
        if not self.added and not self.decided:
            return base
        rows, decided = self.added.items(), sorted(self.decided.items())
        relabelled = [(position, self.index[label]) for position, label in decided if label is not None]
        return OverlaidStore(
            base,
            np.concatenate([keys for _, (_, keys) in rows]) if rows else np.empty((0, base.dim), np.float32),
            _ints(taught_id(number, mirrored=copy > 0) for number, (_, keys) in rows for copy in range(len(keys))),
            _ints(self.index[label] for _, (label, keys) in rows for _ in keys),
            removed=_ints(position for position, label in decided if label is None),
            relabelled=_ints(position for position, _ in relabelled),
            labels=_ints(value for _, value in relabelled),
        )

    @cached_property
    def ids(self) -> Ints:
        """(N,) ids of all entries, in the order of the store's values."""
        return self.store.ids if isinstance(self.store, OverlaidStore) else np.arange(self.store.count)

    @property
    def folded_ids(self) -> list[int]:
        """Ids of the generation's own entries that were taught."""
        return [entry.id for own in self.bundle.taught.values() for entry in own]

    @property
    def removed(self) -> int:
        """How many of the generation's own entries are removed."""
        return sum(label is None for label in self.decided.values())

    def entry(self, entry_id: int) -> Entry | None:
        """One entry with the class that it votes for; None where there is none, or it is removed."""
        number = number_of(entry_id)
        if number is not None:
            label, keys = self.added.get(number, ("", np.empty((0, 0))))
            copy = entry_id - taught_id(number)
            return (
                Entry(entry_id, f"{SOURCE}{number}", self.index[label], bool(copy), None) if copy < len(keys) else None
            )
        entry = self.bundle.entries.get(entry_id)
        if entry is None or entry_id not in self.decided:
            return entry
        decided = self.decided[entry_id]
        return None if decided is None else entry._replace(value=self.index[decided])

    @cached_property
    def counts(self) -> Ints:
        """(C,) entries of each class."""
        # Of all values it would take as long as they are many, with each image that is taught.
        counts = np.zeros(len(self.classes), np.int64)
        counts[: len(self.bundle.counts)] = self.bundle.counts
        for position, label in self.decided.items():
            counts[self.bundle.store.values[position]] -= 1
            if label is not None:
                counts[self.index[label]] += 1
        for label, keys in self.added.values():
            counts[self.index[label]] += len(keys)
        return counts

    @cached_property
    def class_weights(self) -> NDArray[np.float64] | None:
        """How much an entry of each class counts in the vote (C,); None where all count the same."""
        return class_weights(self.counts, len(self.bundle.manifest.network_classes))

    @cached_property
    def index(self) -> dict[str, int]:
        """Each class's number."""
        return {label: value for value, label in enumerate(self.classes)}

    def caught_up(self, journal: Journal) -> Overlay:
        """The overlay with all that was changed since; itself where that is nothing.

        Keys that are missing for this generation's encoder are made, and kept in the journal for others.

        Raises:
            JournalError: the journal cannot be read.
        """
        if journal.newest() == self.change:
            return self
        changed = journal.since(self.change)
        encoder = self.bundle.manifest.files[ENCODER].sha256
        own = self.bundle.taught
        live = {i.number: i.label for i in changed.images if i.label is not None and i.number not in own}
        keys = _with_missing(self.bundle, journal, encoder, live, journal.keys(encoder, self.change))
        added = dict(self.added)
        for image in changed.images:
            added.pop(image.number, None)
        for number, label in live.items():
            copies = [keys[number, mirrored] for mirrored in self._copies if (number, mirrored) in keys]
            if copies:
                added[number] = (label, np.stack(copies))
        decided = dict(self.decided)
        for position, now, before in self._touched(changed):
            if now == before:
                decided.pop(position, None)
            else:
                decided[position] = now
        return replace(
            self,
            change=changed.change,
            labels=tuple(changed.labels),
            added=dict(sorted(added.items())),
            decided=decided,
        )

    @property
    def _copies(self) -> tuple[bool, ...]:
        """Whether a copy is mirrored, for each that the generation keeps of an image."""
        return (False, True) if self.bundle.manifest.dataset.mirrored else (False,)

    def _touched(self, changed: Changed) -> Iterator[tuple[int, str | None, str]]:
        """Positions of the generation's own entries that changes are about, with their label now and their own."""
        manifest = self.bundle.manifest
        for image in changed.images:
            for entry in self.bundle.taught.get(image.number, ()):
                yield entry.id, image.label, manifest.classes[entry.value]
        labels = {c.source: c.label for c in changed.corrections if c.dataset == manifest.dataset.name}
        for entry in self.bundle.entries.of_sources(labels):
            yield entry.id, labels[entry.source], manifest.classes[entry.value]


def _ints(numbers: Iterable[int]) -> Ints:
    return np.fromiter(numbers, np.int64)


def _with_missing(
    bundle: Bundle,
    journal: Journal,
    encoder: str,
    live: Collection[int],
    keys: dict[tuple[int, bool], Floats],
) -> dict[tuple[int, bool], Floats]:
    """The keys, with those that are still to be made for some images."""
    copies = (False, True) if bundle.manifest.dataset.mirrored else (False,)
    missing = [(number, mirrored) for number in live for mirrored in copies if (number, mirrored) not in keys]
    for start in range(0, len(missing), BATCH):
        named, images = [], []
        for number, mirrored in missing[start : start + BATCH]:
            content = journal.content(number)
            if content is None:  # removed meanwhile
                continue
            try:
                image = decode(content, bundle.engine.size, Limits(DEFAULT_PIXELS))
            except ImageError as error:
                logger.error("taught image %d is left out: %s", number, error)
                continue
            named.append((number, mirrored))
            images.append(image[:, ::-1] if mirrored else image)
        if not images:
            continue
        encoding = bundle.engine.encode(np.ascontiguousarray(np.stack(images)))
        made = {one: key for one, key in zip(named, encoding.keys, strict=True) if np.isfinite(key).all()}
        keys |= made
        with suppress(JournalError):  # they are made again where they cannot be kept
            journal.keep_keys(encoder, made)
    return keys

"""The entries of a new bundle: what was embedded of a dataset, checked, under the labels that its images have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secondlook.indexer.datasets.copies import Repeats, first_copies, kept_apart
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.indexer.datasets.fold import FoldedDataset
from secondlook.indexer.datasets.folders import FolderDataset, why_empty
from secondlook.indexer.embedding.entries import EmbeddedEntries
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.cache import VotingEntries
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import DatasetError
from secondlook.model.journal import number_in
from secondlook.model.manifest import DatasetInfo
from secondlook.model.stores.store import parts

PAIRS_NAMED = 100
"""Pairs of images, one picture in two classes, that the manifest names."""

ENTRIES_AT_ONCE = 65_536
"""Entries on their way to the table, as Python's own numbers."""


@dataclass(frozen=True)
class NewEntries:
    """N entries, in the order of their ids."""

    dataset: Dataset
    """What is cached, without classes of which every image was removed meanwhile."""
    embedded: EmbeddedEntries
    values: Ints
    """(N,)"""
    first: Ints
    """(n,) for each image that could be read, the first one that shows the same picture."""
    unreadable: tuple[str, ...]
    """Sources of the images that gave no entries."""

    @classmethod
    def of(cls, dataset: Dataset, embedded: EmbeddedEntries) -> NewEntries:
        """Check what was embedded of a dataset, and look for copies in it.

        Raises:
            DatasetError: all images of a class are lost, or most of all: then something is amiss that is not theirs.
        """
        unreadable = _unreadable(dataset, embedded.positions)
        if isinstance(dataset, FoldedDataset):
            dataset = dataset.less_emptied(dataset.labels[embedded.positions])
        return cls(dataset, embedded, dataset.labels[embedded.positions], first_copies(embedded.looks), unreadable)

    def require_two_pictures(self) -> None:
        """Refuse what nothing can be fitted on.

        Raises:
            DatasetError: all images show the same picture.
        """
        if not self.first.any():
            raise DatasetError(
                f"all {len(self.first):,} images of {self.dataset.name} show the same picture: add different ones"
            )

    @property
    def picture_labels(self) -> Ints:
        """(m,) the label of each picture, of copies that of the first one."""
        labels = self.dataset.labels[self.embedded.positions[~self.embedded.mirrored]]
        of_pictures: Ints = labels[self.first == np.arange(len(self.first))]
        return of_pictures

    @cached_property
    def looks_rows(self) -> Ints:
        """(N,) where among the looks each entry's image is: an image's own and its mirrored entry share one."""
        originals = self.embedded.positions[~self.embedded.mirrored]
        order = np.argsort(originals)
        return order[np.searchsorted(originals[order], self.embedded.positions)]

    @property
    def taught(self) -> Ints:
        """(n,) the entries of images that were taught."""
        sources = map(self.dataset.source, self.embedded.positions.tolist())
        return np.flatnonzero([number_in(source) is not None for source in sources])

    def voting(self, *, is_kept_whole: bool) -> VotingEntries:
        """What is fitted on: the dataset's tenth as queries, and copies of its pictures, found by their looks.

        ``is_kept_whole``: the store keeps the keys as they are.
        """
        embedded, values, rows, originals = self.embedded, self.values, self.looks_rows, ~self.embedded.mirrored
        in_tenth = np.isin(embedded.positions, self.dataset.holdout())
        own = np.flatnonzero(in_tenth & originals)
        apart = kept_apart(in_tenth[originals], embedded.looks, values[originals])
        return VotingEntries(
            self.first[rows],
            EmbeddedQueries(embedded.logits, embedded.keys[own], values[own], embedded.looks[rows[own]], own),
            apart[rows],
            lambda rows: embedded.keys[rows],
            None if is_kept_whole else lambda rows: embedded.keys[rows],
            _Chunks(embedded.keys, values),
        )

    def table(self) -> Iterator[Entry]:
        """The entries as a bundle lists them."""
        embedded = self.embedded
        columns = (embedded.positions, self.values, embedded.mirrored, embedded.sheet, embedded.place)
        for start in range(0, len(self.values), ENTRIES_AT_ONCE):
            rows = zip(*(column[start : start + ENTRIES_AT_ONCE].tolist() for column in columns), strict=True)
            for i, (position, value, mirrored, sheet, place) in enumerate(rows, start):
                yield Entry(i, self.dataset.source(position), value, mirrored, sheet if sheet >= 0 else None, place)

    def info(self, *, mirrored: bool) -> DatasetInfo:
        """What the manifest says of the dataset; hashes it."""
        dataset, positions = self.dataset, self.embedded.positions[~self.embedded.mirrored]
        repeats = Repeats.of(self.first, dataset.labels[positions])
        named = ((dataset.source(int(positions[row])) for row in pair) for pair in repeats.across[:PAIRS_NAMED])
        return DatasetInfo(
            name=dataset.name,
            split=dataset.split,
            images=len(positions),
            mirrored=mirrored,
            unreadable=self.unreadable,
            left_out=dataset.left_out.counts(),
            duplicates=repeats.images,
            in_two_classes=tuple((one, other) for one, other in named),
            in_two_classes_count=len(repeats.across),
            classes=len(dataset.own_classes) if len(dataset.own_classes) < len(dataset.classes) else None,
            sha256=dataset.content_hash(),
        )


def _unreadable(dataset: Dataset, positions: Ints) -> tuple[str, ...]:
    """The sources of images that are not at positions (n,), but for taught ones that were removed meanwhile."""
    there, left = np.zeros(len(dataset.labels), bool), np.ones(len(dataset.labels), bool)
    there[positions] = True
    if isinstance(dataset, FoldedDataset):
        left[dataset.removed()] = False
    have = np.isin(np.arange(len(dataset.classes)), dataset.labels[there])
    # Classes of which people removed every image are no surprise.
    folder = dataset
    while isinstance(folder, DerivedDataset):
        folder = folder.base
    lost = [
        dataset.classes[label]
        for label in np.flatnonzero(~have).tolist()
        if (dataset.labels[left] == label).any() or _is_empty(folder, dataset.classes[label])
    ]
    if lost:
        own = [folder.classes.index(name) for name in lost if name in folder.classes]
        if isinstance(folder, FolderDataset) and own:
            raise DatasetError(why_empty(folder, own))
        raise DatasetError(f"{dataset.name} has no readable images of {', '.join(lost[:5])}")
    if 2 * there.sum() < left.sum():
        raise DatasetError(f"most images of {dataset.name} cannot be read: {dataset.left_out.said()}")
    return tuple(dataset.source(position) for position in np.flatnonzero(left & ~there).tolist())


def _is_empty(dataset: Dataset, name: str) -> bool:
    """Whether a class is a folder without images."""
    if not isinstance(dataset, FolderDataset) or name not in dataset.classes:
        return False
    return dataset.classes.index(name) not in dataset.labels


@dataclass(frozen=True)
class _Chunks:
    """Chunks of the keys as embedded."""

    keys: Floats
    values: Ints

    def __iter__(self) -> Iterator[tuple[Floats, Ints]]:
        for part in parts(*self.keys.shape):
            yield self.keys[part], self.values[part]

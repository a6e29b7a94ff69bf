"""A dataset as people corrected it: what a root's journal says, folded into what is indexed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.left_out import LeftOut, LeftOutError, Reason
from secondlook.model.images import decode
from secondlook.model.journal import ACCEPTED, SOURCE, Journal
from secondlook.model.labels import new_labels


@dataclass(frozen=True)
class Folded:
    """A dataset less what was removed, under the labels that its images have now, and after it what was taught."""

    of: Dataset
    journal: Journal
    change: int
    """The newest change that is in it."""
    classes: tuple[str, ...]
    """The dataset's, then those that were taught."""
    labels: NDArray[np.int64]
    kept: NDArray[np.int64]
    """Positions of the dataset's images that are left."""
    numbers: tuple[int, ...]
    """Of the taught images."""
    state: str
    """All that was folded in, as text."""

    @property
    def name(self) -> str:
        """The dataset's."""
        return self.of.name

    @property
    def split(self) -> str:
        """The dataset's."""
        return self.of.split

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The dataset's."""
        return self.of.own_classes

    @property
    def left_out(self) -> LeftOut:
        """The dataset's."""
        return self.of.left_out

    def read(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """One image, of the dataset or taught.

        Raises:
            ImageError: it cannot be decoded, or (LeftOutError) was removed since.
        """
        if index < len(self.kept):
            return self.of.read(int(self.kept[index]), size)
        content = self.journal.content(self.numbers[index - len(self.kept)])
        if content is None:
            raise LeftOutError(Reason.REMOVED, "it was removed meanwhile")
        return decode(content, size, ACCEPTED)

    def source(self, index: int) -> str:
        """Where it came from: for a taught image, its number."""
        if index < len(self.kept):
            return self.of.source(int(self.kept[index]))
        return f"{SOURCE}{self.numbers[index - len(self.kept)]}"

    def removed(self) -> NDArray[np.int64]:
        """Positions of taught images that were found to be removed since."""
        gone = {left.file for left in self.left_out if left.reason is Reason.REMOVED}
        first = len(self.kept)
        return np.array([i for i in range(first, len(self.labels)) if self.source(i) in gone], np.int64)

    def less_emptied(self, labels: NDArray[np.int64]) -> Folded:
        """Less the taught classes that none of these labels (N,) is of: all their images were removed since."""
        kept = np.union1d(np.arange(len(self.own_classes)), labels)
        now = np.full(len(self.classes), -1)
        now[kept] = np.arange(len(kept))
        return replace(self, classes=tuple(self.classes[label] for label in kept), labels=now[self.labels])

    def content_hash(self) -> str:
        """Of the dataset and of what was folded in."""
        return hashlib.sha256(f"{self.of.content_hash()} {self.state}".encode()).hexdigest()

    def holdout(self) -> NDArray[np.int64]:
        """The dataset's, less what was removed: taught images all vote."""
        return np.flatnonzero(np.isin(self.kept, self.of.holdout()))


def fold(dataset: Dataset, journal: Journal) -> Dataset:
    """The dataset as the journal has it; the dataset itself where nothing was taught that is about it.

    Raises:
        JournalError: the journal cannot be read.
    """
    changed = journal.since(0)
    images = [(image.number, image.label) for image in changed.images if image.label is not None]
    decided = {c.source: c.label for c in changed.corrections if c.dataset == dataset.name}
    if not images and not decided:
        return dataset
    used = {label for _, label in images} | {label for label in decided.values() if label is not None}
    classes = (*dataset.classes, *new_labels(list(changed.labels.values()), used, dataset.classes))
    index = {label: value for value, label in enumerate(classes)}
    labels = dataset.labels.copy()
    kept = np.ones(len(labels), bool)
    for position in range(len(labels)) if decided else ():
        source = dataset.source(position)
        if source in decided:
            label = decided[source]
            kept[position] = label is not None
            labels[position] = -1 if label is None else index[label]
    return Folded(
        dataset,
        journal,
        changed.change,
        classes,
        np.concatenate((labels[kept], np.array([index[label] for _, label in images], np.int64))),
        np.flatnonzero(kept),
        tuple(number for number, _ in images),
        json.dumps([images, sorted(decided.items())]),
    )

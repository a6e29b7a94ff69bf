"""A dataset as people corrected it: what a root's journal says, folded into what is indexed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.indexer.datasets.left_out import LeftOutError, Reason
from secondlook.model.images import Geometry, decode
from secondlook.model.journal import ACCEPTED, SOURCE, Journal
from secondlook.model.labels import new_labels


@dataclass(frozen=True)
class FoldedDataset(DerivedDataset):
    """A dataset less what was removed, under the labels that its images have now, and after it what was taught."""

    change: int
    """The newest change that is in it."""
    kept: NDArray[np.int64]
    """Positions of the dataset's images that are left."""

    def removed(self) -> NDArray[np.int64]:
        """Positions of taught images that were found to be removed since."""
        gone = {left.file for left in self.left_out if left.reason is Reason.REMOVED}
        taught = range(len(self.kept), len(self.labels))
        return np.array([position for position in taught if self.source(position) in gone], np.int64)

    def less_emptied(self, labels: NDArray[np.int64]) -> FoldedDataset:
        """Less the taught classes that none of these labels (N,) is of: all their images were removed since."""
        kept = np.union1d(np.arange(len(self.own_classes)), labels)
        now = np.full(len(self.classes), -1)
        now[kept] = np.arange(len(kept))
        return replace(self, classes=tuple(self.classes[label] for label in kept), labels=now[self.labels])


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
    stays = np.ones(len(labels), bool)
    for position in range(len(labels)) if decided else ():
        if (name := dataset.source(position)) in decided:
            label = decided[name]
            stays[position] = label is not None
            labels[position] = -1 if label is None else index[label]
    kept, numbers = np.flatnonzero(stays), [number for number, _ in images]
    state = json.dumps([images, sorted(decided.items())])

    def read(position: int, geometry: Geometry) -> NDArray[np.uint8]:
        if position < len(kept):
            return dataset.read(int(kept[position]), geometry)
        return decode(taught(position), geometry, ACCEPTED)

    def content(position: int) -> Content | None:
        if position < len(kept):
            return dataset.content(int(kept[position]))
        return Content.of_file(taught(position), ACCEPTED)

    def taught(position: int) -> bytes:
        content = journal.content(numbers[position - len(kept)])
        if content is None:
            raise LeftOutError(Reason.REMOVED, "it was removed meanwhile")
        return content

    def source(position: int) -> str:
        if position < len(kept):
            return dataset.source(int(kept[position]))
        return f"{SOURCE}{numbers[position - len(kept)]}"

    return FoldedDataset.of(
        dataset,
        classes=classes,
        labels=np.concatenate((labels[kept], np.array([index[label] for _, label in images], np.int64))),
        read=read,
        content=content,
        source=source,
        content_hash=lambda: hashlib.sha256(f"{dataset.content_hash()} {state}".encode()).hexdigest(),
        # Of the dataset's own: taught images all vote.
        holdout=lambda: np.flatnonzero(np.isin(kept, dataset.holdout())),
        change=changed.change,
        kept=kept,
    )

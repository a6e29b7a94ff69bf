"""Datasets made of another one: some of its images, its images changed, or others after them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.left_out import LeftOut
from secondlook.model.images import Geometry


@dataclass(frozen=True)
class DerivedDataset:
    """A dataset whose members are functions and arrays, most of them those of the one it is made of."""

    base: Dataset
    name: str
    split: str
    classes: tuple[str, ...]
    own_classes: tuple[str, ...]
    labels: NDArray[np.int64]
    left_out: LeftOut
    read: Callable[[int, Geometry], NDArray[np.uint8]]
    content: Callable[[int], Content | None]
    source: Callable[[int], str]
    content_hash: Callable[[], str]
    holdout: Callable[[], NDArray[np.int64]]

    @classmethod
    def of(cls, base: Dataset, **changed: Any) -> Self:
        """``base``, but for the members that are given, by their names in ``Dataset``.

        With another ``read`` and no ``content`` of its own, it has none.
        """
        if "read" in changed:
            changed.setdefault("content", lambda _: None)
        same = {field.name for field in fields(DerivedDataset)} - changed.keys() - {"base"}
        return cls(base=base, **{name: getattr(base, name) for name in same}, **changed)


def subset(dataset: Dataset, positions: NDArray[np.int64]) -> DerivedDataset:
    """The images at positions (n,) of a dataset; its holdout are those of them that are the dataset's."""
    return DerivedDataset.of(
        dataset,
        labels=dataset.labels[positions],
        read=lambda index, geometry: dataset.read(int(positions[index]), geometry),
        content=lambda index: dataset.content(int(positions[index])),
        source=lambda index: dataset.source(int(positions[index])),
        content_hash=lambda: hashlib.sha256(dataset.content_hash().encode() + positions.tobytes()).hexdigest(),
        holdout=lambda: np.flatnonzero(np.isin(positions, dataset.holdout())),
    )


def ordered(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same images, the dataset's own classes in this order; the dataset itself where they are."""
    if dataset.own_classes == classes:
        return dataset
    names = (*classes, *dataset.classes[len(classes) :])
    place = {name: i for i, name in enumerate(names)}
    now = np.array([place[name] for name in dataset.classes])
    changed: dict[str, Any] = {"classes": names, "own_classes": classes, "labels": now[dataset.labels]}
    return replace(dataset, **changed) if isinstance(dataset, DerivedDataset) else DerivedDataset.of(dataset, **changed)

"""Datasets brought to a bundle's classes by name: folders may come in another order, or be some of them only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.model.errors import DatasetError
from secondlook.model.manifest import Manifest

LISTED = 5


def of_bundle(dataset: Dataset, manifest: Manifest) -> Dataset:
    """The dataset with labels that are indices of a bundle's classes; itself where they are that already.

    It may have some of the classes, in any order.

    Raises:
        DatasetError: it has a class that the bundle does not have.
    """
    if dataset.own_classes == manifest.classes[: len(dataset.own_classes)]:
        return dataset
    index = {label: value for value, label in enumerate(manifest.classes)}
    if strange := [label for label in dataset.classes if label not in index]:
        raise DatasetError(
            f"{dataset.name} has {_strange(strange, manifest.classes)}, which bundle {manifest.generation} does not "
            f"have (it has {listed(manifest.classes)}): rename or leave out such folders, or cache them: secondlook "
            "index DATASET"
        )
    now = np.array([index[label] for label in dataset.classes], np.int64)
    changed: dict[str, Any] = {
        "classes": manifest.classes,
        "own_classes": manifest.classes,
        "labels": now[dataset.labels],
    }
    return DerivedDataset.of(dataset, **changed)


def listed(classes: Sequence[str]) -> str:
    """Class names in a sentence, the first few of many."""
    return ", ".join(classes[:LISTED]) + (f", ... ({len(classes)} in all)" if len(classes) > LISTED else "")


def _strange(labels: Sequence[str], known: Sequence[str]) -> str:
    """Classes that are not known, and the nearest of those that are."""

    def of(label: str) -> str:
        near = difflib.get_close_matches(label.casefold(), [name.casefold() for name in known], 1, 0.6)
        nearest = next((name for name in known if near and name.casefold() == near[0]), None)
        return label if nearest is None else f"{label} (the nearest is {nearest})"

    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return f"the class{'es' if len(labels) > 1 else ''} {', '.join(map(of, labels[:LISTED]))}{more}"

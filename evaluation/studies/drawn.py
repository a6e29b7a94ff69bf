"""Some photos of each class, drawn, and a bundle of them: what studies of few photos begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset, subset
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.root import activate, prune
from secondlook.model.cache import Ints
from secondlook.model.errors import DatasetError


def draw_of_each(dataset: Dataset, labels: Ints, count: int, random: np.random.Generator) -> Ints:
    """Positions of so many images of each class of a dataset, of those with labels (n,), class by class.

    Raises:
        DatasetError: a class has fewer.
    """
    drawn = []
    for label, name in enumerate(dataset.classes):
        own = np.flatnonzero(labels == label)
        if len(own) < count:
            raise DatasetError(
                f"{dataset.name} has {len(own)} images of {name}: ask for fewer of each class than {count}"
            )
        drawn.append(random.permutation(own)[:count])
    return np.concatenate(drawn)


def some_of_each(dataset: Dataset, count: int, random: np.random.Generator) -> DerivedDataset:
    """So many images of each class of a dataset.

    Raises:
        DatasetError: a class has fewer.
    """
    return subset(dataset, np.sort(draw_of_each(dataset, dataset.labels, count, random)))


def indexed(dataset: Dataset, root: Path, source: EncoderSource) -> Bundle:
    """A bundle of a dataset, the newest of its root, where nothing stays but it and what was embedded.

    Raises:
        What ``index`` raises.
    """
    generation = index(dataset, root, source, IndexOptions(thumbnails=False, engines=False))
    activate(root, generation)
    prune(root, 1)
    return open_bundle(root, generation)

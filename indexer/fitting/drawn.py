"""Some images of a dataset, to measure a network on: as many of each class as there are, the same each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.model.errors import ImageError
from secondlook.model.images import Geometry


@dataclass(frozen=True)
class Drawn:
    """Images that can be read."""

    dataset: Dataset
    positions: tuple[int, ...]
    geometry: Geometry
    decoded: dict[int, NDArray[np.uint8]]
    """By position, of that geometry."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,)."""
        return self.dataset.labels[list(self.positions)]

    def read(self, position: int, geometry: Geometry) -> NDArray[np.uint8]:
        """One of them (height,width,3)."""
        return self.decoded[position] if geometry == self.geometry else self.dataset.read(position, geometry)


def draw(dataset: Dataset, usable: NDArray[np.int64], count: int, geometry: Geometry) -> Drawn:
    """Draw so many of the images at positions ``usable``; those that cannot be read are noted as left out."""
    random = np.random.default_rng(0)
    of_class = [
        random.permutation(usable[dataset.labels[usable] == label]) for label in np.unique(dataset.labels[usable])
    ]
    order = sorted((place, label, int(index)) for label, of in enumerate(of_class) for place, index in enumerate(of))
    decoded: dict[int, NDArray[np.uint8]] = {}
    for _, _, index in order:
        if len(decoded) == count:
            break
        try:
            decoded[index] = dataset.read(index, geometry)
        except ImageError as error:
            dataset.left_out.note(dataset.source(index), error)
    return Drawn(dataset, tuple(decoded), geometry, decoded)

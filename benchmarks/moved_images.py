"""CIFAR-100 made as large as ImageNet: its training images, each moved by some pixels in several ways.

All are held in memory (154 MB), in an order that is random by class: the first entries are a sample of all.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset, load
from secondlook.indexer.datasets.derived import DerivedDataset, subset
from secondlook.indexer.datasets.reading import read_all
from secondlook.model.images import Geometry, fit
from secondlook.model.networks.preprocess import CIFAR

FARTHEST = 2
"""Pixels by which an image is moved at most, both directions together."""
WAYS = 13
"""So many ways are there, with that of not being moved."""


class Way(NamedTuple):
    """How an image is moved, in pixels."""

    down: int
    right: int


def ways(count: int = WAYS) -> list[Way]:
    """The nearest ways, that of not being moved first."""
    steps = range(-FARTHEST, FARTHEST + 1)
    found = [Way(down, right) for down in steps for right in steps if abs(down) + abs(right) <= FARTHEST]
    return sorted(found, key=lambda way: (abs(way.down) + abs(way.right), way))[:count]


def moved(image: NDArray[np.uint8], way: Way) -> NDArray[np.uint8]:
    """An image (height,width,3), moved; what comes in at an edge is the edge again."""
    height, width, _ = image.shape
    rows = np.clip(np.arange(height) - way.down, 0, height - 1)
    columns = np.clip(np.arange(width) - way.right, 0, width - 1)
    return np.ascontiguousarray(image[rows][:, columns])


def moved_images(base: ArrayDataset, count: int = WAYS) -> Dataset:
    """All images as they are, then all of them moved in the next way, and so on: ``count`` ways in all.

    It has no holdout of its own: an image that is moved would be asked of the same one, moved elsewhere.
    """
    chosen, images = ways(count), len(base.labels)

    def pixels(position: int) -> NDArray[np.uint8]:
        return moved(base.images[position % images], chosen[position // images])

    def read(position: int, geometry: Geometry) -> NDArray[np.uint8]:
        image = pixels(position)
        return image if geometry.keeps(image.shape[1], image.shape[0]) else fit(Image.fromarray(image), geometry)

    def source(position: int) -> str:
        down, right = chosen[position // images]
        return f"{base.source(position % images)} {down:+d} {right:+d}"

    return DerivedDataset.of(
        base,
        labels=np.tile(base.labels, len(chosen)),
        read=read,
        content=lambda position: Content((pixels(position).data,), lambda geometry: read(position, geometry)),
        source=source,
        content_hash=lambda: hashlib.sha256(f"{base.content_hash()} {chosen}".encode()).hexdigest(),
        holdout=lambda: np.empty(0, np.int64),
    )


def shuffled(dataset: Dataset, count: int | None = None) -> ArrayDataset:
    """Some images of a dataset, or all, in memory, in an order that is random by class and the same each time."""
    order = np.random.default_rng(0).permutation(len(dataset.labels))[:count]
    images, read = read_all(subset(dataset, order), CIFAR.geometry)
    order = order[read]
    sources = [dataset.source(position) for position in order.tolist()]
    return ArrayDataset(dataset.name, dataset.split, dataset.classes, dataset.labels[order], images, sources)


def halves(data_root: Path) -> tuple[Dataset, Dataset]:
    """The test images: every other one to fit on, the others to ask."""
    test = shuffled(load("cifar100", "test", data_root))
    everything = np.arange(len(test.labels))
    return subset(test, everything[::2]), subset(test, everything[1::2])

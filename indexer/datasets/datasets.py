"""Labelled image sets: the published CIFAR batches, and folders of class folders.

Nothing here needs torch, so a CPU server can rebuild its own cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.folders import (
    SPLIT_NAMES,
    FolderDataset,
    empty_classes,
    holdout_share,
    less_classes,
    load_folder,
    splits_of,
    why_empty,
)
from secondlook.indexer.datasets.left_out import LeftOut
from secondlook.indexer.datasets.published import CIFAR, read_published
from secondlook.model.errors import DatasetError
from secondlook.model.images import DEFAULT_PIXELS, Geometry, Limits, fit

DEFAULT_LIMITS = Limits(DEFAULT_PIXELS)
"""Of images in folders, where nobody says otherwise."""
NOTHING = "what was taught"
"""What the dataset of no images is called: with what was taught, it is that."""


class Dataset(Protocol):
    """A labelled image set that can be read in any order, from several threads."""

    @property
    def name(self) -> str:
        """What it was opened as."""

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``test``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Those of the dataset itself, the first ones; the others were taught to a cache, and no network knows them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each image, shape (N,)."""

    @property
    def left_out(self) -> LeftOut:
        """What was left out so far: what is no image, and what could not be read; whoever reads notes it here."""

    def read(self, index: int, geometry: Geometry, /) -> NDArray[np.uint8]:
        """One image as RGB, shape (height, width, 3), as the geometry has it.

        Raises:
            ImageError: the image cannot be decoded.
        """

    def content(self, index: int, /) -> Content | None:
        """The image as it lies there; None where it is made anew each time.

        Raises:
            ImageError: there is no image.
        """

    def source(self, index: int, /) -> str:
        """Where the image came from: a path relative to the dataset, or batch and position."""

    def content_hash(self) -> str:
        """SHA-256 over images and labels, in order."""

    def holdout(self) -> NDArray[np.int64]:
        """Indices kept from training and used to fit theta, lam and k: a tenth of the images, 10,000 at most.

        They are the same each time.
        """


@dataclass(frozen=True)
class ArrayDataset:
    """Images held in memory, shape (N, height, width, 3) uint8, in an order that is random by class."""

    name: str
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    sources: Sequence[str]
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def own_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def read(self, index: int, geometry: Geometry) -> NDArray[np.uint8]:
        """The image, as the geometry has it: as it is, where that is all of it and its size."""
        image: NDArray[np.uint8] = self.images[index]
        return image if geometry.keeps(image.shape[1], image.shape[0]) else fit(Image.fromarray(image), geometry)

    def content(self, index: int) -> Content:
        """Its pixels."""
        image = np.ascontiguousarray(self.images[index])
        return Content((repr(image.shape).encode(), image.data), lambda geometry: self.read(index, geometry))

    def source(self, index: int) -> str:
        """The published file name."""
        return self.sources[index]

    def content_hash(self) -> str:
        """SHA-256 of pixels and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def holdout(self) -> NDArray[np.int64]:
        """The last ones (for CIFAR-10 the last 5,000, which the paper's author kept too)."""
        count = len(self.labels)
        return np.arange(max(0, count - max(1, round(count * holdout_share(count)))), count)


def nothing() -> ArrayDataset:
    """A dataset of no images of no classes: a cache of it has what it was taught, and nothing else."""
    return ArrayDataset(NOTHING, "train", (), np.empty(0, np.int64), np.empty((0, 1, 1, 3), np.uint8), ())


def load(name: str, split: str = "train", data_root: Path | None = None, limits: Limits = DEFAULT_LIMITS) -> Dataset:
    """Open ``cifar10``, ``cifar100`` or a folder of class folders.

    A folder with class folders in subfolders called ``train``, ``val`` (``valid``, ``validation``) or ``test`` has
    those splits; any other folder has only its images, whatever the split, but no ``val``. A relative folder is looked
    for below data_root first, then here.

    Raises:
        DatasetError: nothing is there, a CIFAR file is not as published, or a folder is refused (``load_folder``).
    """
    if split not in SPLIT_NAMES:
        raise DatasetError(f"there is no split {split!r}: choose train, val or test")
    split = SPLIT_NAMES[split]
    if name in CIFAR and not _is_folder(name, data_root):
        return _load_cifar(name, split, data_root)
    return load_folder(name, split, _folder(name, data_root), limits)


def load_to_cache(
    name: str, split: str, data_root: Path | None, limits: Limits, *, skip_empty: bool = False
) -> Dataset:
    """What ``load`` opens, to be cached or trained on: each class has an image that can be read, or is left out.

    Raises:
        DatasetError: as ``load``; or a class has no such image, and none is to be left out.
    """
    dataset = load(name, split, data_root, limits)
    if not isinstance(dataset, FolderDataset) or not (empty := empty_classes(dataset)):
        return dataset
    if not skip_empty:
        raise DatasetError(why_empty(dataset, empty))
    return less_classes(dataset, empty)


def load_to_query(classes: Sequence[str], name: str, split: str, data_root: Path | None, limits: Limits) -> Dataset:
    """What ``load`` opens, to ask a cache of these classes about it: empty folders of other classes do not count.

    Raises:
        DatasetError: as ``load``.
    """
    dataset = load(name, split, data_root, limits)
    if not isinstance(dataset, FolderDataset) or set(dataset.classes) <= set(classes):
        return dataset
    return less_classes(dataset, [label for label in empty_classes(dataset) if dataset.classes[label] not in classes])


def splits(name: str, data_root: Path | None = None) -> tuple[str, ...]:
    """The splits that ``load`` can open, of ``train``, ``val`` and ``test``; none where a folder has no splits.

    Raises:
        DatasetError: nothing is there, or it is not clear which of a folder's folders are splits.
    """
    if name in CIFAR and not _is_folder(name, data_root):
        return tuple(CIFAR[name].splits)
    return splits_of(_folder(name, data_root))


def _is_folder(name: str, data_root: Path | None) -> bool:
    """Whether a published set lies there as class folders, and not as published."""
    return data_root is not None and not (data_root / CIFAR[name].folder).is_dir() and (data_root / name).is_dir()


def _folder(name: str, data_root: Path | None) -> Path:
    for base in ([data_root] if data_root else []) + [Path()]:
        if (base / name).is_dir():
            return base / name
    raise DatasetError(f"there is no dataset {name!r}: give cifar10, cifar100 or a folder of class folders")


def _load_cifar(name: str, split: str, data_root: Path | None) -> Dataset:
    if data_root is None:
        raise DatasetError(f"say where {name} lies: --data-root FOLDER or SECONDLOOK_DATA")
    images, labels, classes, sources = read_published(name, split, data_root)
    return ArrayDataset(name, split, classes, labels, images, sources)

"""Labelled image sets: the published CIFAR batches, and folders of class folders.

Nothing here needs torch, so a CPU server can rebuild its own cache. The CIFAR batches are pickles; they are read
without unpickling (``pickletools`` only lists what a file says), and only when their MD5 is the published one.
"""

from __future__ import annotations

import hashlib
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
from secondlook.model.errors import DatasetError
from secondlook.model.images import DEFAULT_PIXELS, Geometry, Limits, fit

DEFAULT_LIMITS = Limits(DEFAULT_PIXELS)
"""Of images in folders, where nobody says otherwise."""


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
        return np.arange(count - max(1, round(count * holdout_share(count))), count)


@dataclass(frozen=True)
class _Published:
    """How one CIFAR set was published: folder, label field, and the files of each split with their MD5."""

    folder: str
    labels_field: str
    names_field: str
    meta: tuple[str, str]
    splits: dict[str, tuple[tuple[str, str], ...]]


CIFAR = {
    "cifar10": _Published(
        "cifar-10-batches-py",
        "labels",
        "label_names",
        ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        {
            "train": (
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            "test": (("test_batch", "40351d587109b95175f43aff81a1287e"),),
        },
    ),
    "cifar100": _Published(
        "cifar-100-python",
        "fine_labels",
        "fine_label_names",
        ("meta", "7973b15100ade9c7d40fb424638fde48"),
        {
            "train": (("train", "16019d7e3df5f24257cddd939b257f8d"),),
            "test": (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        },
    ),
}


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
    published = CIFAR[name]
    folder = data_root / published.folder
    if split not in published.splits:
        raise DatasetError(f"{name} has no split {split}: it has {' and '.join(published.splits)}")
    if not folder.is_dir():
        wanted = f"{published.folder}/ or {name}/"
        raise DatasetError(f"{name} is not in {data_root}: expected {wanted} (secondlook index --download fetches it)")
    images, labels, sources = [], [], []
    for file, md5 in published.splits[split]:
        fields = _fields(_published_bytes(folder / file, md5))
        images.append(np.frombuffer(fields["data"], np.uint8).reshape(-1, 3, 32, 32))
        labels += fields[published.labels_field]
        sources += fields["filenames"]
    classes = tuple(_fields(_published_bytes(folder / published.meta[0], published.meta[1]))[published.names_field])
    pixels = np.ascontiguousarray(np.concatenate(images).transpose(0, 2, 3, 1))
    return ArrayDataset(name, split, classes, np.asarray(labels, np.int64), pixels, sources)


def _published_bytes(path: Path, md5: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DatasetError(f"{path} is not the published file (its MD5 differs): download it again")
    return content


def _fields(pickled: bytes) -> dict[str, Any]:
    """The lists of a batch's one dictionary by name, and its pixel block as ``data``.

    ``pickletools.genops`` lists a pickle's operations and runs none of them. A list's items stand between MARK and
    APPENDS, a thousand at a time; the string before a list is its name; the one string of over 255 bytes is the pixels.
    """
    fields: dict[str, Any] = {}
    name, in_list = "", False
    argument: Any
    for operation, argument, _ in pickletools.genops(pickled):
        match operation.name:
            case "EMPTY_LIST":
                fields[name] = []
            case "MARK" | "APPENDS":
                in_list = operation.name == "MARK" and name in fields
            case "BINSTRING":
                fields["data"] = argument.encode("latin-1")
            case "SHORT_BINSTRING" | "BINUNICODE" | "BININT1" | "BININT2" if in_list:
                fields[name].append(argument)
            case "SHORT_BINSTRING" | "BINUNICODE":
                name = argument
    return fields

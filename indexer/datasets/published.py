"""The published CIFAR batches, read without running what they say; needs numpy alone.

The batches are pickles; they are read without unpickling (``pickletools`` only lists what a file says), and only when
their MD5 is the published one.
"""

from __future__ import annotations

import hashlib
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import DatasetError


@dataclass(frozen=True)
class Published:
    """How one CIFAR set was published: folder, label field, and the files of each split with their MD5."""

    folder: str
    labels_field: str
    names_field: str
    meta: tuple[str, str]
    splits: dict[str, tuple[tuple[str, str], ...]]


CIFAR = {
    "cifar10": Published(
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
    "cifar100": Published(
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


class Batches(NamedTuple):
    """One split of a published set."""

    images: NDArray[np.uint8]
    """(N,32,32,3) RGB."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sources: list[str]
    """The published file names."""


def read_published(name: str, split: str, data_root: Path) -> Batches:
    """Read a split of ``cifar10`` or ``cifar100`` below data_root.

    Raises:
        DatasetError: it has no such split, it is not there, or a file is not as published.
    """
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
    return Batches(pixels, np.asarray(labels, np.int64), classes, sources)


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

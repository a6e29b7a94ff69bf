"""Labelled image sets: the published CIFAR batches, and folders of class folders.

Nothing here needs torch, so a CPU server can rebuild its own cache. The CIFAR batches are pickles; they are read
without unpickling (``pickletools`` only lists what a file says), and only when their MD5 is the published one.
"""

from __future__ import annotations

import hashlib
import pickletools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indexer.folders import SPLIT_NAMES
from model.errors import DatasetError, ImageError
from model.images import DEFAULT_PIXELS, EXTENSIONS, Limits, decode, fit

HOLDOUT_SHARE = 0.1
SPLITS = ("train", "val", "test")


class Dataset(Protocol):
    """A labelled image set that can be read in any order, from several threads."""

    @property
    def name(self) -> str:
        """What it was opened as."""
        ...

    @property
    def split(self) -> str:
        """``train`` or ``test``."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Those of the dataset itself, the first ones; the others were taught to a cache, and no network knows them."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each image, shape (N,)."""
        ...

    def read(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """One image as RGB, shape (height, width, 3) for size (height, width).

        Raises:
            ImageError: the image cannot be decoded.
        """
        ...

    def source(self, index: int) -> str:
        """Where the image came from: a path relative to the dataset, or batch and position."""
        ...

    def content_hash(self) -> str:
        """SHA-256 over images and labels, in order."""
        ...

    def holdout(self) -> NDArray[np.int64]:
        """Indices kept from training and used to fit theta, lam and k: a tenth of the images, the same each time."""
        ...


@dataclass(frozen=True)
class ArrayDataset:
    """Images held in memory, shape (N, height, width, 3) uint8, in an order that is random by class."""

    name: str
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    sources: Sequence[str]

    @property
    def own_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def read(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The image; resized only where the encoder wants another size."""
        image: NDArray[np.uint8] = self.images[index]
        if image.shape[:2] == size:
            return image
        return fit(Image.fromarray(image), size)

    def source(self, index: int) -> str:
        """The published file name."""
        return self.sources[index]

    def content_hash(self) -> str:
        """SHA-256 of pixels and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def holdout(self) -> NDArray[np.int64]:
        """The last tenth (for CIFAR-10 the last 5,000, which the paper's author kept too)."""
        count = len(self.labels)
        return np.arange(count - max(1, round(count * HOLDOUT_SHARE)), count)


@dataclass(frozen=True)
class FolderDataset:
    """Image files in class folders: ROOT/<class>/**/<file>."""

    name: str
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    root: Path
    files: tuple[str, ...]
    limits: Limits
    digests: Iterable[bytes] | None = None
    """What ``digest`` gives for each file, where that is known already: ``content_hash`` then reads no file."""

    @property
    def own_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def read(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode one file."""
        return decode(self._bytes(index), size, self.limits)

    def _bytes(self, index: int) -> bytes:
        path = self.root / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror}") from error

    def source(self, index: int) -> str:
        """The path below the root."""
        return _printable(self.files[index])

    def content_hash(self) -> str:
        """SHA-256 over each file's path and bytes."""
        digest = hashlib.sha256()
        digests = map(self.digest, range(len(self.files))) if self.digests is None else self.digests
        for name, of_file in zip(self.files, digests, strict=True):
            digest.update(name.encode(errors="surrogateescape") + b"\0")
            digest.update(of_file)
        return digest.hexdigest()

    def digest(self, index: int) -> bytes:
        """SHA-256 (32 bytes) of one file."""
        try:
            content = (self.root / self.files[index]).read_bytes()
        except OSError:
            content = b"unreadable"
        return hashlib.sha256(content).digest()

    def holdout(self) -> NDArray[np.int64]:
        """The last tenth of each class, by name: neighbouring frames of a film stay on one side."""
        chosen = []
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            if len(members) > 1:
                chosen.append(members[-max(1, round(len(members) * HOLDOUT_SHARE)) :])
        return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


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


def load(name: str, split: str = "train", data_root: Path | None = None) -> Dataset:
    """Open ``cifar10``, ``cifar100`` or a folder of class folders.

    A folder with class folders in subfolders called ``train`` or ``test`` has those splits; any other folder has only
    its images, whatever the split. A relative folder is looked for below data_root first, then here.

    Raises:
        DatasetError: nothing is there, a CIFAR file is not as published, or there are no images.
    """
    if split not in SPLIT_NAMES:
        raise DatasetError(f"there is no split {split!r}: choose train, val or test")
    split = SPLIT_NAMES[split]
    if name in CIFAR:
        return _load_cifar(name, split, data_root)
    for base in ([data_root] if data_root else []) + [Path()]:
        if (base / name).is_dir():
            return _load_folder(name, split, base / name)
    raise DatasetError(f"there is no dataset {name!r}: give cifar10, cifar100 or a folder of class folders")


def splits(name: str, data_root: Path | None = None) -> tuple[str, ...]:
    """The splits that ``load`` can open, of ``train``, ``val`` and ``test``; none where a folder has no splits."""
    if name in CIFAR and not (data_root and (data_root / name).is_dir()):
        return ("train", "test")
    for base in ([data_root] if data_root else []) + [Path()]:
        if (base / name).is_dir():
            return tuple(part for part in SPLITS if any(path.is_dir() for path in _children(base / name / part)))
    return ()


def _load_cifar(name: str, split: str, data_root: Path | None) -> Dataset:
    if data_root is None:
        raise DatasetError(f"say where {name} lies: --data-root FOLDER or SECONDLOOK_DATA")
    published = CIFAR[name]
    folder = data_root / published.folder
    if not folder.is_dir():
        if (data_root / name).is_dir():
            return _load_folder(name, split, data_root / name)
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


def _load_folder(name: str, split: str, root: Path) -> FolderDataset:
    # A class may well be called "train"; a split holds folders, a class holds images.
    splits = [part for part in SPLITS if any(path.is_dir() for path in _children(root / part))]
    if splits and split not in splits:
        raise DatasetError(f"{root} has {' and '.join(splits)} but no {split}/ with class folders")
    folder = root / split if splits else root
    titles = sorted(path.name for path in _children(folder) if path.is_dir() and not path.name.startswith("."))
    if not titles:
        raise DatasetError(f"{folder} has no class folders: expected {folder}/<class>/<image>")
    files: list[str] = []
    labels: list[int] = []
    for label, title in enumerate(titles):
        found = sorted(
            str(path.relative_to(folder)) for path in (folder / title).rglob("*") if path.suffix.lower() in EXTENSIONS
        )
        files += found
        labels += [label] * len(found)
    if not files:
        raise DatasetError(f"{folder} has no images ({', '.join(sorted(EXTENSIONS))}) in its class folders")
    # Relative names are kept, to find the images again; an absolute one would tell clients of this machine's folders.
    shown = root.resolve().name if Path(name).is_absolute() or Path(name) == Path() else Path(name).as_posix()
    classes = tuple(map(_printable, titles))
    return FolderDataset(
        _printable(shown), split, classes, np.asarray(labels, np.int64), folder, tuple(files), Limits(DEFAULT_PIXELS)
    )


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _printable(name: str) -> str:
    """A file's name as text, also where its bytes are not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")

"""A folder of photos as ``start`` takes it: looked at before any work, and seen to have changed since the last time."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.folders import FolderDataset, empty_classes, less_classes, splits_of
from secondlook.indexer.datasets.left_out import is_plain, printable
from secondlook.indexer.datasets.walk import HEAD
from secondlook.model.bundles.root import CURRENT, write_lines
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.images import Limits, sniff

NOTED = "photos.json"
"""A root's file of which photos its newest index was made of."""
LONGEST_NAME = 80
"""Bytes of a folder's name that its root is called by."""


@dataclass(frozen=True)
class Photos:
    """The photos of a folder that are to be cached."""

    folder: Path
    """Without links."""
    dataset: FolderDataset
    holdout: Dataset | None
    """Its split val, where it has one."""
    empty: tuple[str, ...] = ()
    """Classes without a photo that can be read, which are left out."""

    @property
    def data_root(self) -> Path:
        """The folder below which the dataset is found by its name."""
        return self.folder.parent

    def listing(self) -> str:
        """SHA-256 over path, size and time of change of each file: another one where a photo came, went or changed."""
        digest = hashlib.sha256()
        for dataset in (self.dataset, self.holdout):
            if isinstance(dataset, FolderDataset):
                digest.update(repr((dataset.root, dataset.classes)).encode(errors="surrogateescape"))
                for file in dataset.files:
                    digest.update(repr((file, _stamp(dataset.root / file))).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Noted:
    """What a root's newest index was made of."""

    photos: str
    """The folder; empty where there is none, and all was taught."""
    network: str
    """As it was named."""
    network_stamp: str
    listing: str

    @classmethod
    def of(cls, photos: Photos | None, network: str) -> Noted:
        """What is there now."""
        folder, listing = ("", "") if photos is None else (os.fspath(photos.folder), photos.listing())
        return cls(folder, network, network_stamp(network), listing)

    @classmethod
    def read(cls, root: Path) -> Noted | None:
        """What was noted; None where nothing was, or no bundle is active."""
        if not (root / CURRENT).exists():
            return None
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads((root / NOTED).read_text("utf-8", "surrogateescape")))
        return None

    def write(self, root: Path) -> None:
        """Note it, once the bundle is active.

        Raises:
            BundleError: the root cannot be written.
        """
        try:
            write_lines(root, NOTED, [json.dumps(self.__dict__)])
        except OSError as error:
            raise BundleError(f"{root}/{NOTED} cannot be written: {error.strerror}") from error


def look(folder: Path, limits: Limits) -> Photos:
    """Look at a folder of photos, without decoding them all.

    Raises:
        DatasetError: it is not there, no folder, or has not two classes with photos.
    """
    folder = _folder(folder)
    if not is_plain(folder.name):
        raise DatasetError(
            f"the name of {printable(str(folder))} begins with -, or has a backslash or what is no character, and a "
            "server could not index it again: rename that folder"
        )
    if (there := splits_of(folder)) and "train" not in there:
        shown = printable(str(folder))
        raise DatasetError(
            f"{shown} has {' and '.join(there)} but no train/ with class folders: rename one of them to train, or if "
            f"its classes are what you mean: secondlook start {shown}/{there[0]}"
        )
    dataset = load(folder.name, "train", folder.parent, limits)
    if not isinstance(dataset, FolderDataset):
        raise DatasetError(f"{folder.name} is the name of a published set: rename the folder {folder}")
    empty = empty_classes(dataset)
    names = tuple(dataset.classes[label] for label in empty)
    if empty:
        dataset = less_classes(dataset, empty)
    if len(dataset.classes) < 2:
        (only,), (inner, *_) = dataset.classes, dataset.folders[0]
        shown = printable(str(folder))
        # Of photos/trash/glass/1.jpg, "photos" was given and "photos/trash" is meant.
        deeper = {file.split("/")[1] for file in dataset.files if file.count("/") > 1}
        meant = f"; or if the folders in it are the classes: secondlook start {shown}/{printable(inner)}"
        raise DatasetError(
            f"{shown} has photos of one class only, {only}: two are needed to tell apart, so add another folder, such "
            f"as {shown}/other/1.jpg{meant if len(deeper) > 1 else ''}"
        )
    holdout = load(folder.name, "val", folder.parent, limits) if "val" in there else None
    return Photos(folder, dataset, holdout, names)


def root_name(folder: Path) -> str:
    """What the root of a folder's bundles is called: like the folder, and so that no other folder's is."""
    resolved = folder.resolve()
    name = os.fsencode(resolved.name)[:LONGEST_NAME].decode(errors="ignore")
    shown = "".join(char if char.isprintable() else "_" for char in name).lstrip(".") or "photos"
    return f"{shown}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:8]}"


def network_stamp(network: str) -> str:
    """Another one where a network's file has changed; empty where the network is no file."""
    return _stamp(Path(network)) if Path(network).is_file() else ""


def _folder(given: Path) -> Path:
    shown = printable(str(given))
    try:
        folder = given.expanduser().resolve()
        if folder.is_dir():
            return folder
        is_file = folder.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{shown} cannot be read: {error}") from error
    if not is_file:
        raise DatasetError(
            f"there is no folder {shown}: give one that has a folder of photos for each class, as with "
            f"{shown}/cat/1.jpg and {shown}/dog/1.jpg"
        )
    asked = ""
    with suppress(OSError):
        if zipfile.is_zipfile(folder) or tarfile.is_tarfile(folder):
            raise DatasetError(f"{shown} is an archive: unpack it, then: secondlook start {_stem(shown)}")
        with folder.open("rb") as file:
            asked = f"; to ask about this photo: secondlook classify {shown}" if sniff(file.read(HEAD)) else ""
    raise DatasetError(f"{shown} is a file: give a folder that has a folder of photos for each class{asked}")


def _stem(name: str) -> str:
    """An archive's name less its endings."""
    while Path(name).suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        name = name[: -len(Path(name).suffix)]
    return name


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"

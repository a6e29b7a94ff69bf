"""Datasets that are folders: ``<class>/<image>``, or ``<split>/<class>/<image>`` (docs/datasets.md)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.content import Content
from secondlook.indexer.datasets.left_out import LeftOut, LeftOutError, Reason, as_utf8, printable
from secondlook.indexer.datasets.walk import is_system, kind_of, read_image, unreadable, walk, why_not
from secondlook.model.errors import DatasetError, ImageError, ParameterError
from secondlook.model.images import SMALL, Geometry, Limits, decode
from secondlook.model.labels import fold, normalize_label

HOLDOUT_SHARE = 0.1
MOST_HELD = 10_000
"""Images in a holdout: more say no more of a few parameters, and each is compared with all entries."""
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What the folder of a split may be called, in any case."""
_DIGEST = hashlib.sha256().digest_size


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
    folders: tuple[tuple[str, ...], ...]
    """Of each class: more than one where their names are written otherwise but are the same."""
    left_out: LeftOut = field(default_factory=LeftOut)
    digests: Iterable[bytes] | None = None
    """What ``digest`` gives for each file, where that is known already: ``content_hash`` then reads no file."""
    _found: NDArray[np.uint8] = field(init=False, repr=False, compare=False)
    """(n,33) SHA-256 of each file whose content was asked for, and 1 behind it: it is not read again to be hashed."""

    def __post_init__(self) -> None:
        """Begin with none."""
        object.__setattr__(self, "_found", np.zeros((len(self.files), _DIGEST + 1), np.uint8))

    @property
    def own_classes(self) -> tuple[str, ...]:
        """All of them."""
        return self.classes

    def read(self, index: int, geometry: Geometry) -> NDArray[np.uint8]:
        """Decode one file."""
        return decode(read_image(self.root / self.files[index], self.limits), geometry, self.limits)

    def content(self, index: int) -> Content:
        """One file."""
        content = Content.of_file(read_image(self.root / self.files[index], self.limits), self.limits)
        self._found[index, :_DIGEST] = np.frombuffer(content.digest, np.uint8)
        self._found[index, _DIGEST] = 1
        return content

    def source(self, index: int) -> str:
        """The path below the root, as text."""
        return printable(self.files[index])

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
        if self._found[index, _DIGEST]:
            return self._found[index, :_DIGEST].tobytes()
        try:
            content = read_image(self.root / self.files[index], self.limits)
        except LeftOutError:
            content = b"unreadable"
        return hashlib.sha256(content).digest()

    def holdout(self) -> NDArray[np.int64]:
        """The last ones of each class, by name: neighbouring frames of a film stay on one side."""
        chosen, share = [], holdout_share(len(self.labels))
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            if len(members) > 1:
                chosen.append(members[-max(1, round(len(members) * share)) :])
        held = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
        return spread(held, MOST_HELD)


def holdout_share(images: int) -> float:
    """Of so many images, which share is held out: a tenth, or of many images less."""
    return min(HOLDOUT_SHARE, MOST_HELD / max(images, 1))


def spread(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Positions (n,), or as many of them as that, evenly spread over all."""
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(np.int64)]


def load_folder(name: str, split: str, root: Path, limits: Limits) -> FolderDataset:
    """Open a folder that was given as ``name``.

    Raises:
        DatasetError: it cannot be read, has no such split, no class folders, or no images in them; it is not clear
            which folders are splits; or a class folder's name is no label, or too like another one.
    """
    left_out = LeftOut()
    folder = _split_folder(root, split, left_out)
    titles = []
    for entry, kind in _listing(folder):
        if kind == "folder" and not is_system(entry.name):
            titles.append(entry.name)
        else:
            _leave(left_out, entry, kind)
    if not titles:
        raise no_class_folders(folder)
    by_class = _classes(titles)
    files = walk(folder, titles, left_out)
    if not files:
        said = f"; left out: {left_out.said()}" if len(left_out) else ""
        raise DatasetError(f"{folder} has no images in its class folders{said}")
    classes = tuple(sorted(by_class))
    label_of = {title: label for label, name in enumerate(classes) for title in by_class[name]}
    labels = np.array([label_of[file.partition("/")[0]] for file in files], np.int64)
    order = np.argsort(labels, kind="stable")
    # Relative names are kept, to find the images again; an absolute one would tell clients of this machine's folders.
    shown = root.resolve().name if Path(name).is_absolute() or Path(name) == Path() else Path(name).as_posix()
    return FolderDataset(
        printable(shown),
        split,
        classes,
        labels[order],
        folder,
        tuple(files[i] for i in order.tolist()),
        limits,
        tuple(tuple(by_class[name]) for name in classes),
        left_out,
    )


def no_class_folders(folder: Path) -> DatasetError:
    """Say which layout is wanted, and what works without it."""
    shown = printable(str(folder))
    flat = any(kind == "file" and why_not(entry, kind) is None for entry, kind in _listing(folder))
    as_it_is = f"; as it is, it works for: secondlook embed {shown}" if flat else ""
    return DatasetError(
        f"{shown} has {'photos, but ' if flat else ''}no class folders: make a folder for each class, such as "
        f"{shown}/cat/1.jpg and {shown}/dog/1.jpg{as_it_is}"
    )


def load_photos(path: Path, limits: Limits) -> FolderDataset:
    """Open all images of a folder and below, or a file, whatever the layout: they have no classes, and label 0.

    Raises:
        DatasetError: there is no image.
    """
    left_out = LeftOut()
    root, files = (path, walk(path, [""], left_out)) if path.is_dir() else (path.parent, [path.name])
    if not files:
        said = f" (left out: {left_out.said()})" if len(left_out) else ""
        raise DatasetError(f"{path} has no images{said}: give a folder of photos, or a photo")
    labels = np.zeros(len(files), np.int64)
    return FolderDataset(printable(path.name), "", (), labels, root, tuple(files), limits, (), left_out)


def splits_of(root: Path) -> tuple[str, ...]:
    """The splits of a folder, in the order of SPLITS; none where it has its classes at the top.

    Raises:
        DatasetError: it cannot be read, or it is not clear.
    """
    return tuple(split for split in SPLITS if split in _split_folders(root))


def empty_classes(dataset: FolderDataset) -> list[int]:
    """The classes without any image that can be read; what is tried in vain is noted."""
    members = (np.flatnonzero(dataset.labels == label).tolist() for label in range(len(dataset.classes)))
    return [label for label, of in enumerate(members) if not any(_is_readable(dataset, position) for position in of)]


def less_classes(dataset: FolderDataset, labels: list[int]) -> FolderDataset:
    """A dataset without some of its classes, and their images.

    Raises:
        DatasetError: those are all.
    """
    kept = np.setdiff1d(np.arange(len(dataset.classes)), labels)
    if not len(kept):
        raise DatasetError(
            f"{dataset.name} ({dataset.split}) has no images that can be read: {dataset.left_out.said()}"
        )
    stays = np.isin(dataset.labels, kept)
    return replace(
        dataset,
        classes=tuple(dataset.classes[label] for label in kept),
        labels=np.searchsorted(kept, dataset.labels[stays]),
        files=tuple(file for file, is_kept in zip(dataset.files, stays.tolist(), strict=True) if is_kept),
        folders=tuple(dataset.folders[label] for label in kept),
    )


def why_empty(dataset: FolderDataset, labels: list[int]) -> str:
    """A sentence on classes that have no images."""
    whys = []
    for label in labels[:3]:
        left = dataset.left_out.below(*dataset.folders[label])
        whys.append(f"{dataset.classes[label]} has no images ({left.said() or 'its folder is empty'})")
    more = f" and {len(labels) - 3:,} more classes" if len(labels) > 3 else ""
    them = "it" if len(labels) == 1 else "them"
    return (
        f"{'; '.join(whys)}{more}: add some, remove the folder, or leave {them} out with secondlook index --skip-empty"
    )


def _is_readable(dataset: FolderDataset, position: int) -> bool:
    """Whether an image can be decoded; if not, it is noted."""
    try:
        dataset.read(position, SMALL)
    except ImageError as error:
        dataset.left_out.note(dataset.source(position), error)
        return False
    return True


def _split_folder(root: Path, split: str, left_out: LeftOut) -> Path:
    """The folder of a split; the root where there are no splits."""
    folders = _split_folders(root)
    if not folders:
        if split == "val":
            raise DatasetError(f"{root} has no val/ with class folders: it is whole, so --split train names all of it")
        return root
    if split not in folders:
        there = " and ".join(name for name in SPLITS if name in folders)
        raise DatasetError(f"{root} has {there} but no {split}/ with class folders: name another with --split")
    for entry, kind in _listing(root):
        if kind == "folder" and not is_system(entry.name):
            if entry.name not in folders.values():
                left_out.add(f"{printable(entry.name)}/", Reason.NO_SPLIT)
        else:
            _leave(left_out, entry, kind)
    return root / folders[split]


def _split_folders(root: Path) -> dict[str, str]:
    """The folder's name of each split; empty where the folders are classes."""
    named: dict[str, str] = {}
    others: list[str] = []
    for entry, kind in _listing(root):
        if kind != "folder" or is_system(entry.name):
            continue
        split = SPLIT_NAMES.get(entry.name.casefold())
        if split is None:
            others.append(entry.name)
        elif _has_folders(root / entry.name):
            if split in named:
                raise DatasetError(
                    f"{root} has both {named[split]}/ and {entry.name}/ with class folders: rename or move one of them"
                )
            named[split] = entry.name
    # A class may well be called "train": a split holds folders, a class holds images.
    with_images = [name for name in others if walk(root, [name], LeftOut())] if named else []
    if with_images:
        named = {s: name for s, name in named.items() if not _holds_images(root / name)}
    if with_images and len(named) == 1:
        (name,) = named.values()
        raise DatasetError(
            f"it is not clear whether {name}/ in {root} is a split or a class beside {printable(with_images[0])}/: "
            f"give {root / name} if it is a split, or move the images below it up into {name}/ if it is a class"
        )
    return named


def _has_folders(folder: Path) -> bool:
    return os.access(folder, os.R_OK) and any(
        kind == "folder" and not is_system(entry.name) for entry, kind in _listing(folder)
    )


def _holds_images(folder: Path) -> bool:
    return any(kind == "file" and why_not(entry, kind) is None for entry, kind in _listing(folder))


def _listing(folder: Path) -> list[tuple[os.DirEntry[str], Reason | str]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry, kind_of(entry)) for entry in sorted(entries, key=lambda entry: entry.name)]
    except OSError as error:
        raise DatasetError(f"{printable(str(folder))}: {unreadable(error)}") from error


def _leave(left_out: LeftOut, entry: os.DirEntry[str], kind: Reason | str) -> None:
    """Note what is no class folder."""
    reason, why = why_not(entry, kind) or (Reason.NO_CLASS, "it is in no class folder")
    left_out.add(printable(entry.name) + ("/" if kind == "folder" else ""), reason, why)


def _classes(titles: list[str]) -> dict[str, list[str]]:
    """The folders of each class.

    Raises:
        DatasetError: a name is no label, or two are too like each other.
    """
    by_class: dict[str, list[str]] = {}
    for title in titles:
        try:
            label = normalize_label(as_utf8(title), f"the class folder {printable(title)}/")
        except ParameterError as error:
            raise DatasetError(f"{error} (rename the folder)") from error
        by_class.setdefault(label, []).append(title)
    like: dict[str, str] = {}
    for label in by_class:
        other = like.setdefault(fold(label), label)
        if other != label:
            raise DatasetError(
                f"the class folders {other}/ and {label}/ are too like each other for two classes: rename one of them, "
                "or move its images into the other"
            )
    return by_class

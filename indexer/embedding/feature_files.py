"""The files of kept features: which image is in which row of which file, and what it says of it."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.chunks import DAMAGED, Arrays, mapped
from secondlook.indexer.embedding.sheets import KeptSheet
from secondlook.model.cache import Floats

log = logging.getLogger(__name__)

ENDING = ".npz"
DIGEST = hashlib.sha256().digest_size

ROWS = ("digests", "mirrored", "keys", "logits", "pixels", "luma", "colours", "sheet", "place")
OTHERS = ("sheets", "sheet_sizes", "sheet_pictures", "head", "left", "reasons", "whys")

MAPPED = 64
"""Files mapped at once; each takes a descriptor."""


class SheetInFile(NamedTuple):
    """A contact sheet in a file."""

    file: str
    number: int
    arrays: Arrays

    def read(self) -> KeptSheet:
        """It, in memory."""
        sizes = self.arrays["sheet_sizes"]
        end = int(sizes[: self.number + 1].sum())
        jpeg = self.arrays["sheets"][end - int(sizes[self.number]) : end].tobytes()
        return KeptSheet(jpeg, int(self.arrays["sheet_pictures"][self.number]))


class Found(NamedTuple):
    """What is known of an image, or of its mirrored copy."""

    key: Floats
    logits: Floats
    look: tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8]]
    sheet: SheetInFile | int | None
    """The contact sheet that shows it: a file's, or one of this run; None = none does."""
    place: int


class FeatureFile(NamedTuple):
    """A file's name, and whose logits it has."""

    name: str
    head: str


@dataclass(frozen=True)
class Table:
    """Where images are: rows (n,) sorted by the first bytes of their digests."""

    files: tuple[FeatureFile, ...]
    first: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    mirrored: NDArray[np.bool_]
    pictured: NDArray[np.bool_]
    file: NDArray[np.int32]
    """Which of the files each is in, and in which of its rows."""
    row: NDArray[np.int32]

    @classmethod
    def of(cls, file: FeatureFile, arrays: Arrays) -> Table:
        """That of one file."""
        digests = np.array(arrays["digests"])
        rows = np.arange(len(digests), dtype=np.int32)
        return cls._sorted(
            (file,), digests, np.array(arrays["mirrored"]), arrays["sheet"] >= 0, np.zeros_like(rows), rows
        )

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """One of several, the newest last."""
        starts = np.cumsum([0, *(len(table.files) for table in tables)]).tolist()
        return cls._sorted(
            tuple(file for table in tables for file in table.files),
            np.concatenate([table.digests for table in tables]),
            np.concatenate([table.mirrored for table in tables]),
            np.concatenate([table.pictured for table in tables]),
            np.concatenate([table.file + np.int32(start) for table, start in zip(tables, starts[:-1], strict=True)]),
            np.concatenate([table.row for table in tables]),
        )

    @classmethod
    def _sorted(
        cls,
        files: tuple[FeatureFile, ...],
        digests: NDArray[np.uint8],
        mirrored: NDArray[np.bool_],
        pictured: NDArray[np.bool_],
        file: NDArray[np.int32],
        row: NDArray[np.int32],
    ) -> Table:
        first = np.ascontiguousarray(digests[:, :8]).view(np.uint64).reshape(-1)
        order = np.argsort(first, kind="stable")
        return cls(files, first[order], digests[order], mirrored[order], pictured[order], file[order], row[order])

    def rows(self, digest: bytes, *, mirrored: bool) -> list[int]:
        """Those of an image, of the newest file first."""
        first = np.frombuffer(digest, np.uint64, 1)
        start, end = (int(np.searchsorted(self.first, first, side=side)[0]) for side in ("left", "right"))
        return [
            row
            for row in range(end - 1, start - 1, -1)
            if self.digests[row].tobytes() == digest and bool(self.mirrored[row]) == mirrored
        ]


class FeatureFiles:
    """The files of a folder, each called by its SHA-256, the last ones mapped; used from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, bool] = {}
        self._mapped: OrderedDict[str, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def is_whole(self, name: str) -> bool:
        """Whether a file is what its name says; read as a whole, once."""
        with self._lock:
            if name not in self._whole:
                try:
                    with (self._folder / name).open("rb") as file:
                        self._whole[name] = hashlib.file_digest(file, "sha256").hexdigest() + ENDING == name
                    if not self._whole[name]:
                        self._drop(name)
                except OSError:  # removed meanwhile, which is no harm
                    self._whole[name] = False
            return self._whole[name]

    def trust(self, name: str) -> None:
        """Take a file for whole: it was written just now."""
        with self._lock:
            self._whole[name] = True

    def drop(self, name: str) -> None:
        """Say that a file is damaged, and remove it."""
        with self._lock:
            self._drop(name)

    def found(self, name: str, row: int) -> Found | None:
        """What a row of a whole file says; None where that was removed meanwhile."""
        with self._lock:
            try:
                arrays = self._map(name)
            except DAMAGED:
                self._whole[name] = False
                return None
        sheet = int(arrays["sheet"][row])
        return Found(
            arrays["keys"][row],
            arrays["logits"][row],
            (arrays["pixels"][row], arrays["luma"][row], arrays["colours"][row]),
            SheetInFile(name, sheet, arrays) if sheet >= 0 else None,
            int(arrays["place"][row]),
        )

    def _drop(self, name: str) -> None:
        self._whole[name] = False
        log.warning("kept features are damaged (%s): their images are embedded again", self._folder / name)
        with suppress(OSError):
            (self._folder / name).unlink()

    def _map(self, name: str) -> Arrays:
        if name not in self._mapped:
            self._mapped[name] = mapped(self._folder / name)
            if len(self._mapped) > MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(name)
        return self._mapped[name]


def check(arrays: Arrays, dim: int) -> None:
    """Hold a file's arrays to each other.

    Raises:
        ValueError, KeyError: they do not fit.
    """
    count = len(arrays["keys"])
    if any(len(arrays[name]) != count for name in ROWS) or any(name not in arrays for name in OTHERS):
        raise ValueError("rows are missing")
    digests = arrays["digests"], arrays["left"]
    if arrays["keys"].shape[1:] != (dim,) or any(of.shape[1:] != (DIGEST,) for of in digests):
        raise ValueError("rows are of other lengths")

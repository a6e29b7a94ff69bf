"""The contact sheets of an index: those made now, and those kept of earlier runs. None is held in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.embedding.spool import Span, Spool
from secondlook.model.bundles.entry_table import contact_sheet
from secondlook.model.cache import Ints

AHEAD = 4
"""Sheets on their way at once: more pictures are not held for them."""


class KeptSheet(NamedTuple):
    """A contact sheet of an earlier run."""

    jpeg: bytes
    pictures: int


def less(sheet: KeptSheet, stay: Ints) -> bytes:
    """A contact sheet with some of its pictures only, by their places (m,)."""
    with Image.open(io.BytesIO(sheet.jpeg), formats=("JPEG",)) as image:
        return contact_sheet(np.asarray(image).reshape(sheet.pictures, -1, image.width, 3)[stay])


@dataclass(frozen=True)
class ArrangedSheets:
    """Sheets in the order of their numbers, read as they are gone through."""

    _spool: Spool
    _spans: list[Span]
    _lessened: dict[int, tuple[int, Ints]]
    """Of sheets that some pictures are left out of: how many it has, and the places (m,) of those that stay."""

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[bytes]:
        for number, span in enumerate(self._spans):
            jpeg = self._spool.read(span)
            if number in self._lessened:
                pictures, stay = self._lessened[number]
                jpeg = less(KeptSheet(jpeg, pictures), stay)
            yield jpeg


class Sheets:
    """Sheets by their numbers in the bundle, on the disk of a folder (``Spool``).

    Those made now are made beside the encoder, which would wait for them.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder)
        self._of: list[Future[Span]] = []
        self._pictures: dict[int, int] = {}
        """In each of the kept sheets."""
        self._kept: dict[tuple[str, int], int] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sheets")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def make(self, images: NDArray[np.uint8]) -> int:
        """Begin a sheet of pictures (B,h,w,3); its number."""
        return self._begin(lambda: contact_sheet(images))

    def made(self, number: int) -> bytes:
        """One that was begun, when it is there."""
        return self._spool.read(self._of[number].result())

    def take(self, file: str, of_file: int, read: Callable[[], KeptSheet]) -> int:
        """Have a kept sheet among them, named by its file and its number there; the number here."""
        number = self._kept.setdefault((file, of_file), len(self._of))
        if number == len(self._of):
            sheet = read()
            self._pictures[number] = sheet.pictures
            self._begin(lambda: sheet.jpeg)
        return number

    def arranged(self, sheet: Ints, place: Ints) -> ArrangedSheets:
        """The sheets for entries that are at places (n,) of sheets (n,), -1 = none; pictures of no entry are left out.

        ``place`` is changed to where the pictures then are.
        """
        order = np.argsort(sheet, kind="stable")
        numbers = np.array(sorted(self._pictures), np.int64)
        starts, ends = (np.searchsorted(sheet[order], numbers, side=side) for side in ("left", "right"))
        lessened = {}
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
            rows = order[start:end]
            used = np.unique(place[rows])
            if len(used) < self._pictures[number]:
                place[rows] = np.searchsorted(used, place[rows])
                lessened[number] = (self._pictures[number], used)
        return ArrangedSheets(self._spool, [made.result() for made in self._of], lessened)

    def _begin(self, make: Callable[[], bytes]) -> int:
        if len(self._of) >= AHEAD:
            self._of[-AHEAD].result()
        # One thread makes and adds them, so they lie in order, and nobody waits for the disk.
        self._of.append(self._pool.submit(lambda: self._spool.add(make())))
        return len(self._of) - 1

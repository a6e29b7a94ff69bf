"""The contact sheets of an index: those made now, and those kept of earlier runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.model.bundles.entry_table import contact_sheet
from secondlook.model.cache import Ints


class KeptSheet(NamedTuple):
    """A contact sheet of an earlier run."""

    jpeg: bytes
    pictures: int


def less(sheet: KeptSheet, stay: Ints) -> bytes:
    """A contact sheet with some of its pictures only, by their places (m,)."""
    with Image.open(io.BytesIO(sheet.jpeg), formats=("JPEG",)) as image:
        return contact_sheet(np.asarray(image).reshape(sheet.pictures, -1, image.width, 3)[stay])


@dataclass
class Sheets:
    """Sheets by their numbers in the bundle. Those made now are made beside the encoder, which would wait for them."""

    _of: list[Future[bytes] | KeptSheet] = field(default_factory=list)
    _kept: dict[tuple[str, int], int] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="sheets"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def make(self, images: NDArray[np.uint8]) -> int:
        """Begin a sheet of pictures (B,h,w,3); its number."""
        self._of.append(self._pool.submit(contact_sheet, images))
        return len(self._of) - 1

    def made(self, number: int) -> bytes:
        """One that was begun, when it is there."""
        sheet = self._of[number]
        assert isinstance(sheet, Future)
        return sheet.result()

    def take(self, file: str, of_file: int, read: Callable[[], KeptSheet]) -> int:
        """Have a kept sheet among them, named by its file and its number there; the number here."""
        number = self._kept.setdefault((file, of_file), len(self._of))
        if number == len(self._of):
            self._of.append(read())
        return number

    def arranged(self, sheet: Ints, place: Ints) -> list[bytes]:
        """The sheets for entries that are at places (n,) of sheets (n,), -1 = none; pictures of no entry are left out.

        ``place`` is changed to where the pictures then are.
        """
        order = np.argsort(sheet, kind="stable")
        numbers = np.arange(len(self._of))
        starts, ends = (np.searchsorted(sheet[order], numbers, side=side) for side in ("left", "right"))
        found = []
        for of, start, end in zip(self._of, starts.tolist(), ends.tolist(), strict=True):
            if isinstance(of, Future):
                found.append(of.result())
                continue
            rows = order[start:end]
            used = np.unique(place[rows])
            if len(used) == of.pictures:
                found.append(of.jpeg)
            else:
                place[rows] = np.searchsorted(used, place[rows])
                found.append(less(of, used))
        return found

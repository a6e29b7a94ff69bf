"""Images that show one picture twice: the same bytes, or the same picture encoded or scaled anew.

They must stand on one side of every split, or the holdout is answered by its own copies. Keys do not tell them apart:
on CIFAR-10 a network's keys of a picture and of its JPEG copy of quality 75 have a cosine of .94 in the middle, those
of a test image and its nearest training image up to .99. What does is the look of an image, its brightness on a grid
of 8 x 8. Root mean square difference, of 255, between an image and its copy (the largest of 2,000) or the nearest
other image (the smallest of 2,500):

=====================  ========================  ==========================
                       CIFAR-10, 32 x 32         photos (imagenette, trash)
=====================  ========================  ==========================
copy, JPEG quality 75  1.7                       0.4
copy, JPEG quality 30  3.2                       1.0
copy, scaled           1.6 (by 3 %)              1.3 (to a half, quality 80)
nearest other image    5.1                       4.6 (one object from two sides)
=====================  ========================  ==========================
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

GRID = 8
COLOUR_GRID = 2
FARTHEST = 4.0
"""Root mean square difference of two looks, of 255, up to which they are of one picture; see above."""
FARTHEST_SHARE = 0.25
"""And so much of the standard deviation within either look at most: fog is not a copy of other fog."""
FARTHEST_COLOUR = 12
"""And so much in the mean of any colour in any quarter: a red sign is not a copy of a green one."""

MOST = 50
"""A picture that looks like more than so many others, of other pixels, is none of a copy: so do images of one camera
that is not moved."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_QUERIES_AT_ONCE = 256
_IMAGES_AT_ONCE = 8192


@dataclass(frozen=True)
class Looks:
    """What tells pictures apart, of N images."""

    digests: NDArray[np.uint64]
    """(N,) of the decoded pixels: equal where all pixels are."""
    luma: NDArray[np.uint8]
    """(N,64) mean brightness in each cell of the grid."""
    colours: NDArray[np.uint8]
    """(N,12) mean red, green and blue in each quarter."""

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> Looks:
        """Those of images (N,H,W,3)."""
        digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images]
        cells = _means(images, GRID)
        return cls(
            np.frombuffer(b"".join(digests), np.uint64),
            np.rint(cells @ _LUMA).astype(np.uint8).reshape(len(images), GRID**2),
            np.rint(_means(images, COLOUR_GRID)).astype(np.uint8).reshape(len(images), 3 * COLOUR_GRID**2),
        )

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Looks:
        """Several, one after the other."""
        empty = cls.of(np.empty((0, GRID, GRID, 3), np.uint8))
        parts = [empty, *parts]
        return cls(
            np.concatenate([part.digests for part in parts]),
            np.concatenate([part.luma for part in parts]),
            np.concatenate([part.colours for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Looks:
        return Looks(self.digests[rows], self.luma[rows], self.colours[rows])


def copies_of(queries: Looks, images: Looks) -> NDArray[np.bool_]:
    """Which of the images (N,) show a picture that is among the queries, themselves included where they are."""
    _, first, of = np.unique(images.digests, return_index=True, return_inverse=True)
    kinds = images[first]
    found = np.isin(kinds.digests, queries.digests)
    for _, columns in _near(queries, kinds):
        found[columns] = True
    shown: NDArray[np.bool_] = found[of]
    return shown


def kept_apart(held: NDArray[np.bool_], images: Looks, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images (N,) may not answer for the held ones (N,): these, and copies of them.

    Where a class would have no image left by that, its images are alike by nature, as those of one unmoved camera are:
    of these only such of the very same pixels count as copies.
    """
    apart = copies_of(images[held], images)
    alike = np.setdiff1d(labels[~held], labels[~apart])
    if len(alike):
        same = np.isin(images.digests, images.digests[held])
        apart = np.where(np.isin(labels, alike), same, apart)
        log.warning("%d classes have images that are all alike: only the same pixels make copies there", len(alike))
    return apart


def first_copies(images: Looks) -> NDArray[np.int64]:
    """The position (N,) of the first image that shows the same picture as each: its own where it is the first."""
    _, first, of = np.unique(images.digests, return_index=True, return_inverse=True)
    # Equal pictures are looked at once: a thousand of one would make a million pairs.
    kinds = images[first]
    earliest = first.astype(np.int64)
    for rows, columns in _near(kinds, kinds):
        np.minimum.at(earliest, rows, first[columns])
    return earliest[of]


class Repeats(NamedTuple):
    """How often pictures are repeated."""

    images: int
    """Images that show the same as an earlier one."""
    across: tuple[tuple[int, int], ...]
    """Positions of the images that show the same as an earlier one of another class, each after that one's."""

    @classmethod
    def of(cls, first: NDArray[np.int64], labels: NDArray[np.int64]) -> Repeats:
        """From what ``first_copies`` gives, and the images' labels (N,)."""
        # The first of each class stands for its copies, so that ten of each are one pair.
        pairs: dict[tuple[int, int], tuple[int, int]] = {}
        for image in np.flatnonzero(labels[first] != labels).tolist():
            pairs.setdefault((int(first[image]), int(labels[image])), (int(first[image]), image))
        return cls(int((first != np.arange(len(first))).sum()), tuple(pairs.values()))


def _near(queries: Looks, images: Looks) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a query and an image that look like one picture, some at a time."""
    # The means of two looks, and the differences of their halves' means, differ by no more than the looks do: so only
    # images that are about as bright, and as bright at the top, are compared.
    asked, there = _Sorted.of(queries), _Sorted.of(images)
    for band in np.unique(asked.bands):
        of_band = asked.rows(int(band))
        for start in range(of_band.start, of_band.stop, _QUERIES_AT_ONCE):
            some = slice(start, min(start + _QUERIES_AT_ONCE, of_band.stop))
            low, high = asked.slopes[some][0] - FARTHEST, asked.slopes[some][-1] + FARTHEST
            found = [there.between(int(band) + step, low, high) for step in (-1, 0, 1)]
            columns, rows = np.concatenate(found), asked.order[some]
            counts = np.zeros(len(rows), np.int64)
            pairs = [np.empty((2, 0), np.int64)]
            for first in range(0, len(columns), _IMAGES_AT_ONCE):
                part = columns[first : first + _IMAGES_AT_ONCE]
                which, of = _pairs(queries[rows], images[part])
                counts += np.bincount(which, minlength=len(rows))
                few = counts[which] <= MOST
                pairs.append(np.stack((which[few], part[of[few]])))
            which, of = np.concatenate(pairs, axis=1)
            few = counts[which] <= MOST
            yield rows[which[few]], of[few]


@dataclass(frozen=True)
class _Sorted:
    """Images in bands of brightness, and in each by how much brighter they are at the top."""

    order: NDArray[np.int64]
    bands: NDArray[np.int64]
    slopes: NDArray[np.float32]

    @classmethod
    def of(cls, looks: Looks) -> _Sorted:
        top, bottom = (half.mean(axis=1, dtype=np.float32) for half in np.split(looks.luma, 2, axis=1))
        bands, slopes = ((top + bottom) / 2 // FARTHEST).astype(np.int64), (top - bottom) / 2
        order = np.lexsort((slopes, bands))
        return cls(order, bands[order], slopes[order])

    def rows(self, band: int) -> slice:
        return slice(int(np.searchsorted(self.bands, band)), int(np.searchsorted(self.bands, band, "right")))

    def between(self, band: int, low: np.float32, high: np.float32) -> NDArray[np.int64]:
        rows = self.rows(band)
        slopes = self.slopes[rows]
        return self.order[rows][np.searchsorted(slopes, low) : np.searchsorted(slopes, high, "right")]


def _pairs(queries: Looks, images: Looks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    a, b = (looks.luma.astype(np.float32) - 128 for looks in (queries, images))
    # a.b - |a|^2/2 - |b|^2/2 is half the negated squared distance: one product, and few pairs that are left after it.
    left = np.concatenate((a, -(a * a).sum(1, keepdims=True) / 2, np.ones((len(a), 1), np.float32)), axis=1)
    right = np.concatenate((b, np.ones((len(b), 1), np.float32), -(b * b).sum(1, keepdims=True) / 2), axis=1)
    near = np.flatnonzero(left @ right.T >= -(GRID**2) * FARTHEST**2 / 2)
    rows, columns = np.divmod(near, len(b)) if len(b) else (near, near)
    apart = np.sqrt(np.square(a[rows] - b[columns]).mean(axis=1))
    colours = np.abs(queries.colours[rows].astype(np.int16) - images.colours[columns]).max(axis=1, initial=0)
    found = (apart <= FARTHEST_SHARE * np.minimum(a.std(axis=1)[rows], b.std(axis=1)[columns])) & (apart <= FARTHEST)
    found &= colours <= FARTHEST_COLOUR
    return rows[found], columns[found]


def _means(images: NDArray[np.uint8], grid: int) -> NDArray[np.float32]:
    """The mean colour (N,grid,grid,3) of each cell of a grid over images (N,H,W,3)."""
    _, height, width, _ = images.shape
    rows, columns = (np.arange(grid) * side // grid for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=1, dtype=np.uint32), columns, axis=2, dtype=np.uint32)
    tall, wide = (np.maximum(np.diff(starts, append=side), 1) for starts, side in ((rows, height), (columns, width)))
    means: NDArray[np.float32] = (sums / (tall[:, None, None] * wide[None, :, None])).astype(np.float32)
    return means

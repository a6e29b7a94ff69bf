"""The neighbours of a cache's own images, leave-one-out, and how they vote on an image's label.

Each entry's key is asked of the store that it lies in: the entry itself, its mirrored copy and all else of the same
source take no part, or an image would vouch for its own label. Labels are doubted by the vote that is served, under the
bundle's own theta and k: with g an image's label and p its neighbours' vote,

    score = ln((p(y) + FLOOR) / (p(g) + FLOOR)),    y the other label with the most votes

both votes being means over the image's copies. Above 0, its neighbours would have given it the other label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.progress import Progress, silent
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints, check_parameters, reweigh, vote
from secondlook.model.errors import ParameterError
from secondlook.model.stores.factory import MAX_APPROXIMATE_K, is_exhaustive
from secondlook.model.stores.store import Neighbors

FLOOR = 1e-3
"""Added to both votes: below it, how small one is says nothing, and a score stays finite."""

NEIGHBORS = 200
"""Where all entries vote, so many are asked."""

QUERIES_AT_ONCE = 1000
NEIGHBORS_AT_ONCE = 2_000_000
"""Fewer queries at once where they ask for many neighbours."""


class Images(NamedTuple):
    """Which entries show the same image: its copies share source and label."""

    of: Ints
    """(N,) image of each entry."""
    source: Ints
    """(N,) number of each entry's source."""
    first: Ints
    """(M,) id of each image's first entry, which is not a mirrored one."""
    labels: Ints
    """(M,)."""
    sources: tuple[str, ...]
    """(M,)."""


def theta_and_k(bundle: Bundle, theta: float | None, k: int | None) -> tuple[float, int]:
    """Return theta and k, the bundle's own where none are given.

    Raises:
        ParameterError: a parameter is out of its range.
    """
    theta = bundle.manifest.theta if theta is None else theta
    k = bundle.manifest.k or NEIGHBORS if k is None else k
    check_parameters(theta, 1.0, k)
    if not is_exhaustive(bundle.manifest.store.factory) and k > MAX_APPROXIMATE_K:
        raise ParameterError(
            f"k must be at most {MAX_APPROXIMATE_K:,} with a store that is searched in part, not {k:,}"
        )
    return theta, min(k, bundle.store.count)


def images_of(bundle: Bundle) -> Images:
    """Group a bundle's entries by the image that they show."""
    names = bundle.entries.sources()
    numbers: dict[str, int] = {}
    source: Ints = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    values, classes = bundle.store.values, len(bundle.manifest.classes)
    _, first, of = np.unique(source * classes + values, return_index=True, return_inverse=True)
    return Images(of, source, first, values[first], tuple(names[i] for i in first))


def neighborhoods(
    bundle: Bundle, images: Images, k: int, progress: Progress = silent
) -> Iterator[tuple[slice, Neighbors]]:
    """Yield some entries at a time, in id order, and the k nearest of another source to each, as in a full search.

    Where there are fewer, the last places have id and value -1.
    """
    store = bundle.store
    copies = int(np.bincount(images.source).max())
    at_once = max(1, min(QUERIES_AT_ONCE, NEIGHBORS_AT_ONCE // (k + copies)))
    done = 0
    for keys, _ in store.chunks():
        for start in range(0, len(keys), at_once):
            some = keys[start : start + at_once]
            rows = slice(done, done + len(some))
            # Quantised keys are not quite of length 1, as a query is.
            some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
            found = store.search(some, k + copies)
            out = (found.ids < 0) | (images.source[found.ids] == images.source[rows][:, None])
            places = np.argsort(out, axis=1, kind="stable")[:, :k]
            similarities, ids, values, out = (np.take_along_axis(a, places, axis=1) for a in (*found, out))
            similarities[out], ids[out], values[out] = -np.inf, -1, -1
            yield rows, Neighbors(similarities, ids, values)
            done = rows.stop
            progress("audit", done, store.count)


class LabelVotes:
    """The neighbours' votes for each entry's label and for the other one that they suggest, gathered by image."""

    def __init__(self, images: Images, classes: int) -> None:
        self._images, self._classes = images, classes
        count = len(images.of)
        self._own, self._other = np.zeros(count, np.float32), np.zeros(count, np.float32)
        self._suggested = np.zeros(count, np.int64)

    def add(
        self,
        rows: slice,
        given: Ints,
        similarities: Floats,
        values: Ints,
        theta: float,
        by_class: NDArray[np.float64] | None,
    ) -> None:
        """Add entries with the labels given (B,), and their neighbours' similarities and values (B,k)."""
        votes = reweigh(vote(similarities, values, theta, self._classes), by_class)
        everyone = np.arange(len(votes))
        self._own[rows] = votes[everyone, given]
        votes[everyone, given] = -1.0
        self._suggested[rows] = votes.argmax(axis=1)
        self._other[rows] = np.maximum(votes.max(axis=1), 0.0)  # a single class has no other

    def of_images(self) -> tuple[NDArray[np.float64], Ints, NDArray[np.float64], NDArray[np.float64]]:
        """Return each image's score, the other label that any entry of it has most votes for, and both votes (M,)."""
        of, count = self._images.of, len(self._images.first)
        entries = np.bincount(of, minlength=count)
        own, other = (np.bincount(of, votes, minlength=count) / entries for votes in (self._own, self._other))
        suggested = np.empty(count, np.int64)
        rising = np.argsort(self._other, kind="stable")
        suggested[of[rising]] = self._suggested[rising]  # the last one written stays
        return np.log((other + FLOOR) / (own + FLOOR)), suggested, own, other

"""The neighbours of a cache's own images, leave-one-out, and how they vote on an image's label.

The cache is what a server answers with: a generation with what was taught since laid over it, less what was removed.
Its entries are numbered here by their place among those that are left (rows); ids are those of ``Overlay.ids``.

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
from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats, Ints, check_parameters, reweigh, vote
from secondlook.model.errors import ParameterError
from secondlook.model.journal import SOURCE
from secondlook.model.stores.added_keys import number_of
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
    """(M,) row of each image's first entry, which is not a mirrored one."""
    labels: Ints
    """(M,)."""
    sources: tuple[str, ...]
    """(M,)."""


def theta_and_k(cache: Overlay, theta: float | None, k: int | None) -> tuple[float, int]:
    """Return theta and k, the bundle's own where none are given.

    Raises:
        ParameterError: a parameter is out of its range.
    """
    manifest = cache.bundle.manifest
    theta = manifest.theta if theta is None else theta
    k = manifest.k or NEIGHBORS if k is None else k
    check_parameters(theta, 1.0, k)
    if not is_exhaustive(manifest.store.factory) and k > MAX_APPROXIMATE_K:
        raise ParameterError(
            f"k must be at most {MAX_APPROXIMATE_K:,} with a store that is searched in part, not {k:,}"
        )
    return theta, min(k, cache.store.count)


def images_of(cache: Overlay) -> Images:
    """Group a cache's entries by the image that they show."""
    own = cache.bundle.entries.sources()
    numbers: dict[str, int] = {}
    names = [_source(entry_id, own) for entry_id in cache.ids.tolist()]
    source: Ints = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    values, classes = cache.store.values, len(cache.classes)
    _, first, of = np.unique(source * classes + values, return_index=True, return_inverse=True)
    return Images(of, source, first, values[first], tuple(names[i] for i in first))


def _source(entry_id: int, own: list[str]) -> str:
    number = number_of(entry_id)
    return own[entry_id] if number is None else f"{SOURCE}{number}"


def neighborhoods(
    cache: Overlay, images: Images, k: int, progress: Progress = silent
) -> Iterator[tuple[slice, Neighbors]]:
    """Yield some entries' rows at a time, in order, and the k nearest of another source to each, as in a full search.

    In place of ids these have rows. Where there are fewer, the last places have row and value -1.
    """
    store, at_once = cache.store, queries_at_once(images, k)
    done = 0
    for keys, _ in store.chunks():
        for start in range(0, len(keys), at_once):
            some = keys[start : start + at_once]
            rows = slice(done, done + len(some))
            yield rows, nearest_others(cache, images, some, images.source[rows], k)
            done = rows.stop
            progress("audit", done, store.count)


def queries_at_once(images: Images, k: int) -> int:
    """For how many entries at most the neighbours are looked for at once."""
    return max(1, min(QUERIES_AT_ONCE, NEIGHBORS_AT_ONCE // (k + _copies(images))))


def nearest_others(cache: Overlay, images: Images, keys: Floats, sources: Ints, k: int) -> Neighbors:
    """The k nearest of another source to each of some entries, whose keys (B,D) and sources (B,) these are; rows."""
    # Quantised keys are not quite of length 1, as a query is.
    queries = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    found = cache.store.search(queries, k + _copies(images))
    rows = _rows(cache, found.ids)
    out = (rows < 0) | (images.source[rows] == sources[:, None])
    places = np.argsort(out, axis=1, kind="stable")[:, :k]
    taken = (np.take_along_axis(each, places, axis=1) for each in (found.similarities, rows, found.values, out))
    similarities, rows, values, out = taken
    similarities[out], rows[out], values[out] = -np.inf, -1, -1
    return Neighbors(similarities, rows, values)


def _copies(images: Images) -> int:
    return int(np.bincount(images.source).max())


def _rows(cache: Overlay, ids: Ints) -> Ints:
    """The rows of entries by their ids; -1 where there is none."""
    if cache.store is cache.bundle.store:
        return ids
    return np.where(ids < 0, -1, np.searchsorted(cache.ids, ids))


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

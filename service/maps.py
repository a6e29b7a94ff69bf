"""Maps of the cache that answers: where its entries lie, and what each of them is."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.curation.map import Axes, Map, positions, principal_axes, sampled
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints
from secondlook.model.stores.added_keys import FIRST_ID

Method = Literal["pca", "tsne"]

TAUGHT, RELABELLED, SUSPECT = 1, 2, 4
"""What a point's flags say."""


class _Own(NamedTuple):
    """A generation's own entries, which never change."""

    axes: Axes
    positions: Floats
    """(N,2)."""
    mirrored: NDArray[np.bool_]
    """(N,)."""


class Components:
    """Maps by principal components: those of a generation are found once, what is taught is laid beside it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[weakref.ref[Bundle], _Own] | None = None

    def of(self, cache: Overlay) -> Map:
        """Where a cache's entries lie; the first call for a generation reads all of its keys."""
        own = self._own(cache.bundle)
        if own is None:  # all of it was taught
            if not cache.store.count:
                return Map(np.empty(0, np.int64), np.empty((0, 2), np.float32))
            axes = principal_axes(sampled(cache.store))
            ids = cache.ids
            return _without_copies(ids, positions(cache.store, axes), (ids - FIRST_ID) % 2 == 1)
        ids = cache.ids
        kept = ids[ids < FIRST_ID]
        added = cache.added.now()[2]
        return _without_copies(
            ids,
            np.concatenate((own.positions[kept], own.axes.of(added))),
            np.concatenate((own.mirrored[kept], (ids[len(kept) :] - FIRST_ID) % 2 == 1)),
        )

    def _own(self, bundle: Bundle) -> _Own | None:
        if not bundle.store.count:
            return None
        with self._lock:
            if self._known is None or self._known[0]() is not bundle:
                axes = principal_axes(sampled(bundle.store))
                own = _Own(axes, positions(bundle.store, axes), bundle.entries.mirrored())
                self._known = weakref.ref(bundle), own
            return self._known[1]


def _without_copies(ids: Ints, where: Floats, is_copy: NDArray[np.bool_]) -> Map:
    return Map(ids[~is_copy], where[~is_copy])


def read_map(path: Path, cache: Overlay) -> Map:
    """What ``secondlook map --for-server`` wrote, less what was removed since."""
    with np.load(path, allow_pickle=False) as kept:
        found = Map(kept["ids"], kept["positions"])
    there = _among(cache.ids, found.ids)
    return Map(found.ids[there], found.positions[there])


def _among(some: Ints, ids: Ints) -> NDArray[np.bool_]:
    """Which of the ids are among some, which ascend."""
    # Not numpy.isin, which imports more of NumPy when it is first called.
    if not len(some):
        return np.zeros(len(ids), bool)
    return np.asarray(some[np.minimum(np.searchsorted(some, ids), len(some) - 1)] == ids)


def thinned(found: Map, most: int) -> Map:
    """At most so many points, evenly by id."""
    if len(found.ids) <= most:
        return found
    rows = np.linspace(0, len(found.ids) - 1, most).astype(np.int64)
    return Map(found.ids[rows], found.positions[rows])


def as_bytes(found: Map, cache: Overlay, suspects: list[int]) -> bytes:
    """The points, little endian: all ids (float64), all positions (2 float32), all classes (int32), all flags (uint8).

    An id is below 2**53, so that JavaScript's numbers hold it.
    """
    values = cache.store.values[np.searchsorted(cache.ids, found.ids)]
    flags = np.zeros(len(found.ids), np.uint8)
    flags[(found.ids >= FIRST_ID) | _among(np.array(cache.folded_ids, np.int64), found.ids)] |= TAUGHT
    flags[_among(cache.corrections.positions, found.ids)] |= RELABELLED
    flags[_among(np.sort(np.array(suspects, np.int64)), found.ids)] |= SUSPECT
    parts = (found.ids.astype("<f8"), found.positions.astype("<f4"), values.astype("<i4"), flags)
    return b"".join(part.tobytes() for part in parts)

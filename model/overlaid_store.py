"""A store and keys beside it, searched as if they were one index, with some entries left out or under other labels.

A live FAISS index is never mutated, since searching while adding ends the process. So what is added is searched beside
it, and the k nearest of both are merged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from model.cache import Floats, Ints
from model.errors import StoreError
from model.manifest import SearchInfo
from model.stores import Neighbors, Store, TunableStore

_faiss: Any = faiss  # Its type hints leave this function out.

SPARE = 16
"""So many more entries than asked for are looked up where some are removed, before all removed ones are left out."""


class OverlaidStore:
    """A generation's store and taught keys as one; ids are those of entries.

    Exact wherever the store is: taught keys are kept as they are, and all compared.
    """

    def __init__(
        self, base: Store, keys: Floats, ids: Ints, values: Ints, removed: Ints, relabelled: Ints, labels: Ints
    ) -> None:
        """Add keys (M,D) under ids beyond the base's and their values (M,).

        The base's entries at ``removed`` (sorted positions) are left out, those at ``relabelled`` (sorted) vote for
        ``labels``.
        """
        self._base, self._keys, self._ids, self._values = base, keys, ids, values
        self._removed, self._relabelled, self._labels = removed, relabelled, labels
        self.dim, self.search_info = base.dim, base.search_info
        # A store without any entry still answers: with none.
        self.count = max(1, base.count - len(removed) + len(keys))

    @cached_property
    def quick(self) -> Store | None:
        """The generation's quick search, with all taught keys."""
        if self._base.quick is None:
            return None
        quick = copy.copy(self)
        quick._base, quick.search_info = self._base.quick, self._base.quick.search_info
        return quick

    @cached_property
    def ids(self) -> Ints:
        """(N,) ids of all entries, ascending."""
        own = np.delete(np.arange(self._base.count), self._removed)
        return np.concatenate((own, self._ids))

    @cached_property
    def values(self) -> Ints:
        """(N,) their labels."""
        own = self._decided(np.arange(self._base.count), self._base.values)
        return np.concatenate((np.delete(own, self._removed), self._values))

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search of the generation's store looks at every entry."""
        return cast(TunableStore, self._base).is_exhaustive

    def efforts(self) -> list[SearchInfo]:
        """Those of the generation's store."""
        return cast(TunableStore, self._base).efforts()

    def with_search(self, search: SearchInfo) -> OverlaidStore:
        """The same entries, the generation's store searched in another way."""
        base = cast(TunableStore, self._base).with_search(search)
        return OverlaidStore(base, self._keys, self._ids, self._values, self._removed, self._relabelled, self._labels)

    def search(self, queries: Floats, k: int, among: NDArray[np.bool_] | None = None) -> Neighbors:
        """The k nearest of both; ``among`` (N,) goes by the order of ``ids``.

        Raises:
            StoreError: ``among`` is given, and the generation's store cannot be searched in part.
        """
        if among is not None:
            return self._part(among).search(queries, k)
        own = self._search_base(queries, k)
        if not len(self._keys):
            return own
        # FAISS's own loop, not NumPy's product: the threads of that one's BLAS go on spinning for a while, and take the
        # processor from the encoder, which then took twice as long.
        near, found = _faiss.knn(
            np.ascontiguousarray(queries, np.float32),
            self._keys,
            min(k, len(self._keys)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        is_there = found >= 0  # a query that is not finite finds nothing
        places = np.where(is_there, found, 0)
        return _nearest(
            np.concatenate((own.similarities, np.where(is_there, near, np.float32(-np.inf))), axis=1),
            np.concatenate((own.ids, np.where(is_there, self._ids[places], -1)), axis=1),
            np.concatenate((own.values, np.where(is_there, self._values[places], -1)), axis=1),
            k,
        )

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys and values, in order of id."""
        start = 0
        for keys, values in self._base.chunks():
            positions = np.arange(start, start + len(keys))
            start += len(keys)
            kept = ~np.isin(positions, self._removed, assume_unique=True)
            if kept.any():
                yield keys[kept], self._decided(positions, values)[kept]
        if len(self._keys):
            yield self._keys, self._values

    def _part(self, among: NDArray[np.bool_]) -> OverlaidStore:
        """Some of the entries: others are left out as removed ones are."""
        ids = self.ids[~among]
        left_out = np.union1d(self._removed, ids[ids < self._base.count])
        kept = among[len(among) - len(self._keys) :]
        part = OverlaidStore(
            self._base,
            self._keys[kept],
            self._ids[kept],
            self._values[kept],
            left_out,
            self._relabelled,
            self._labels,
        )
        part.search_info = self.search_info
        return part

    def _search_base(self, queries: Floats, k: int) -> Neighbors:
        if not len(self._removed):
            found = self._base.search(queries, k)
            return found._replace(values=self._decided(found.ids, found.values))
        spare = min(SPARE, len(self._removed))
        found = self._base.search(queries, k + spare)
        is_removed = np.isin(found.ids, self._removed)
        short = is_removed.sum(axis=1) > spare
        found = _without(found, is_removed, k)
        if short.any():
            rest = self._search_without_removed(queries[short], k)
            found.similarities[short], found.ids[short], found.values[short] = rest
        return found._replace(values=self._decided(found.ids, found.values))

    def _search_without_removed(self, queries: Floats, k: int) -> Neighbors:
        kept = np.ones(self._base.count, bool)
        kept[self._removed] = False
        try:
            return self._base.search(queries, k, kept)
        except StoreError:  # one that cannot be searched in part
            found = self._base.search(queries, k + len(self._removed))
            return _without(found, np.isin(found.ids, self._removed), k)

    def _decided(self, ids: Ints, values: Ints) -> Ints:
        """Values of the generation's own entries, as they are now."""
        if not len(self._relabelled):
            return values
        at = np.minimum(np.searchsorted(self._relabelled, ids), len(self._relabelled) - 1)
        return np.where(self._relabelled[at] == ids, self._labels[at], values)


def _without(found: Neighbors, left_out: NDArray[np.bool_], k: int) -> Neighbors:
    """The first k that are not left out, in order."""
    return _taken(
        np.where(left_out, np.float32(-np.inf), found.similarities),
        np.where(left_out, -1, found.ids),
        np.where(left_out, -1, found.values),
        np.argsort(left_out, axis=1, kind="stable")[:, :k],
    )


def _nearest(similarities: Floats, ids: Ints, values: Ints, k: int) -> Neighbors:
    """The k nearest of those given, by (similarity descending, id ascending)."""
    return _taken(similarities, ids, values, np.lexsort((ids, -similarities), axis=1)[:, :k])


def _taken(similarities: Floats, ids: Ints, values: Ints, columns: Ints) -> Neighbors:
    """Some columns (B,k) of each row."""
    return Neighbors(
        np.take_along_axis(similarities, columns, axis=1),
        np.take_along_axis(ids, columns, axis=1),
        np.take_along_axis(values, columns, axis=1),
    )

"""A store and added keys beside it, searched as if they were one index, some entries left out or under other labels.

A live FAISS index is never mutated, since searching while adding ends the process. So what is added is searched beside
it, and the k nearest of both are merged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import StoreError
from secondlook.model.manifest import SearchInfo
from secondlook.model.stores.added_keys import FIRST_ID, AddedKeys
from secondlook.model.stores.corrections import Corrections
from secondlook.model.stores.store import Neighbors, Store, TunableStore

_faiss: Any = faiss  # Its type hints leave this function out.

AHEAD = 256
"""Added keys that are looked up at least, which costs no more: a full search after an early one finds them here."""
SPARE = 16
"""Entries looked up beyond k where some are removed, before all removed ones are left out."""


class MergedStore:
    """A generation's store and added keys as one; ids are those of entries.

    Exact wherever the store is: added keys are kept as they are, and all compared. It is made in microseconds,
    however many keys were added: what looks at all of them is computed when it is first read.
    """

    def __init__(self, base: Store, added: AddedKeys, corrections: Corrections, class_of: Ints) -> None:
        """Add keys, whose ids are beyond the base's, and corrections of the base's entries by position.

        ``class_of`` (codes,) gives the class that votes for a label, by the code that both have for it.
        """
        self._base, self._added, self._corrections, self._class_of = base, added, corrections, class_of
        self.dim, self.search_info = base.dim, base.search_info
        self._last: list[dict[bytes, tuple[Floats, Ints]]] = [{}]
        """The added keys nearest to each of the last queries: those that an early exit did not settle come again."""
        self.count = base.count - len(corrections.removed) + added.count

    @cached_property
    def early_exit(self) -> Store | None:
        """The first search of the generation's store, with all added keys."""
        if self._base.early_exit is None:
            return None
        early_exit = copy.copy(self)
        early_exit._base, early_exit.search_info = self._base.early_exit, self._base.early_exit.search_info
        return early_exit

    @cached_property
    def ids(self) -> Ints:
        """(N,) ids of all entries, ascending."""
        own = np.delete(np.arange(self._base.count), self._corrections.removed)
        return np.concatenate((own, self._added.now()[0]))

    @cached_property
    def values(self) -> Ints:
        """(N,) their labels."""
        own = self._corrections.labelled(np.arange(self._base.count), self._base.values, self._class_of)
        return np.concatenate((np.delete(own, self._corrections.removed), self._class_of[self._added.now()[1]]))

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search of the generation's store looks at every entry."""
        return cast(TunableStore, self._base).is_exhaustive

    def search_settings(self) -> list[SearchInfo]:
        """Those of the generation's store."""
        return cast(TunableStore, self._base).search_settings()

    def with_search(self, search: SearchInfo) -> MergedStore:
        """The same entries, the generation's store searched in another way."""
        base = cast(TunableStore, self._base).with_search(search)
        return MergedStore(base, self._added, self._corrections, self._class_of)

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """The k nearest of both; ``mask`` (N,) goes by the order of ``ids``.

        Raises:
            StoreError: ``mask`` is given, and the generation's store cannot be searched in part.
        """
        if mask is not None:
            return self._part(mask).search(queries, k)
        base_hits = self._search_base(queries, k)
        if not self._added.count:
            return base_hits
        added_hits = self._search_added(queries, k)
        return _nearest(
            np.concatenate((base_hits.similarities, added_hits.similarities), axis=1),
            np.concatenate((base_hits.ids, added_hits.ids), axis=1),
            np.concatenate((base_hits.values, added_hits.values), axis=1),
            k,
        )

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys and values, in order of id."""
        start = 0
        for keys, values in self._base.chunks():
            positions = np.arange(start, start + len(keys))
            start += len(keys)
            kept = ~self._corrections.is_removed(positions)
            if kept.any():
                yield keys[kept], self._corrections.labelled(positions, values, self._class_of)[kept]
        if self._added.count:
            _, codes, keys = self._added.now()
            yield keys, self._class_of[codes]

    def _part(self, mask: NDArray[np.bool_]) -> MergedStore:
        """Some of the entries: others are left out as removed ones are."""
        out = self.ids[~mask]
        rows = np.searchsorted(self._added.ids, out[out >= FIRST_ID])
        added, corrections = self._added.without(rows), self._corrections.without(out[out < FIRST_ID])
        part = MergedStore(self._base, added, corrections, self._class_of)
        part.search_info = self.search_info
        return part

    def _search_base(self, queries: Floats, k: int) -> Neighbors:
        hits = _less_removed(self._base.search, queries, k, self._corrections, self._base_without_removed)
        return hits._replace(values=self._corrections.labelled(hits.ids, hits.values, self._class_of))

    def _base_without_removed(self, queries: Floats, k: int) -> Neighbors:
        kept = np.ones(self._base.count, bool)
        kept[self._corrections.removed] = False
        try:
            return self._base.search(queries, k, kept)
        except StoreError:  # one that cannot be searched in part
            hits = self._base.search(queries, k + len(self._corrections.removed))
            return without(hits, self._corrections.is_removed(hits.ids), k)

    def _search_added(self, queries: Floats, k: int) -> Neighbors:
        hits = _less_removed(self._compare, queries, k, self._added.corrections, self._added_without_removed)
        is_there, rows = hits.ids >= 0, np.maximum(hits.ids, 0)
        values = self._added.corrections.labelled(rows, self._class_of[self._added.codes[rows]], self._class_of)
        return Neighbors(
            hits.similarities, np.where(is_there, self._added.ids[rows], -1), np.where(is_there, values, -1)
        )

    def _added_without_removed(self, queries: Floats, k: int) -> Neighbors:
        # There are few: from some number on, the others are copied.
        hits = self._compare(queries, k + len(self._added.corrections.removed))
        return without(hits, self._added.corrections.is_removed(hits.ids), k)

    def _compare(self, queries: Floats, k: int) -> Neighbors:
        """The nearest of all rows of added keys, removed ones too; in place of ids their rows, values are none."""
        width = min(k, self._added.rows)
        query_bytes = [query.tobytes() for query in queries]
        remembered = self._last[0]
        if query_bytes and all(query in remembered and len(remembered[query][1]) >= width for query in query_bytes):
            near: Floats = np.stack([remembered[query][0][:width] for query in query_bytes])
            rows: Ints = np.stack([remembered[query][1][:width] for query in query_bytes])
        else:
            # FAISS's own loop, not NumPy's product: the threads of that one's BLAS go on spinning for a while, and take
            # the processor from the encoder, which then took twice as long.
            near, rows = _faiss.knn(
                np.ascontiguousarray(queries, np.float32),
                self._added.keys,
                min(max(k, AHEAD), self._added.rows),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            self._last[0] = dict(zip(query_bytes, zip(near, rows, strict=True), strict=True))
            near, rows = near[:, :width], rows[:, :width]
        # A query that is not finite finds nothing.
        return Neighbors(np.where(rows >= 0, near, np.float32(-np.inf)), rows, np.full_like(rows, -1))


Search = Callable[[Floats, int], Neighbors]


def _less_removed(search: Search, queries: Floats, k: int, corrections: Corrections, thorough: Search) -> Neighbors:
    """What a search finds, less what is removed; ``thorough`` is asked where too much of what it finds is."""
    removed = len(corrections.removed)
    if not removed:
        return search(queries, k)
    spare = min(SPARE, removed)
    hits = search(queries, k + spare)
    is_removed = corrections.is_removed(hits.ids)
    short = is_removed.sum(axis=1) > spare
    hits = without(hits, is_removed, k)
    if short.any():
        rest = thorough(queries[short], k)
        hits.similarities[short], hits.ids[short], hits.values[short] = rest
    return hits


def without(hits: Neighbors, left_out: NDArray[np.bool_], k: int) -> Neighbors:
    """The first k that are not left out, in order."""
    return _taken(
        np.where(left_out, np.float32(-np.inf), hits.similarities),
        np.where(left_out, -1, hits.ids),
        np.where(left_out, -1, hits.values),
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

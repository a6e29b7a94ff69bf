"""Where keys are searched: FAISS, and an exact reference in numpy that the others are held to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np

from model.cache import Floats, Ints
from model.errors import StoreError

EXHAUSTIVE = re.compile(r"(OPQ\d+(_\d+)?,)?(Flat|SQ(4|6|8|fp16|bf16)|PQ\d+(x\d+)?)")
"""Factory strings of indexes that look at every entry: with them, what was fitted is what is served."""

BLAS_FROM_QUERIES = 4
"""Flat search goes through BLAS from this many queries on: below it FAISS's own loop was faster (docs/decisions)."""

CHUNK_BYTES = 64 << 20
"""Keys are handed out in chunks of about this size."""

READ_LIMIT_BYTES = 1 << 40
"""FAISS refuses an index file that asks for a longer vector than this."""


class Neighbors(NamedTuple):
    """The nearest entries of each query, by (similarity descending, id ascending); id and value -1 = no entry."""

    similarities: Floats
    """(B,k) inner products."""
    ids: Ints
    """(B,k)."""
    values: Ints
    """(B,k) class labels."""


class Store(Protocol):
    """Searchable keys with their values; safe to search from several threads."""

    dim: int
    count: int
    values: Ints

    def search(self, queries: Floats, k: int) -> Neighbors:
        """The k entries of largest inner product with each of queries (B,D) float32."""
        ...

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys (n,D) and values (n,), a chunk at a time, in id order; decoded where they are quantised."""
        ...


class ExactStore:
    """All inner products, in numpy: the reference."""

    def __init__(self, keys: Floats, values: Ints) -> None:
        self._keys, self.values = keys, values
        self.count, self.dim = keys.shape

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Exact search; ties in id order."""
        similarities = queries @ self._keys.T
        nearest = min(k, self.count)
        ids = np.argpartition(-similarities, nearest - 1, axis=1)[:, :nearest].astype(np.int64)
        return _ordered(np.take_along_axis(similarities, ids, axis=1), ids, self.values, k)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """The keys as given."""
        for part in _parts(self.count, self.dim):
            yield self._keys[part], self.values[part]


class FaissStore:
    """A FAISS inner-product index whose ids are positions; never changed once built."""

    def __init__(self, index: Any, values: Ints, factory: str) -> None:
        if index.ntotal != len(values):
            raise StoreError(f"the index has {index.ntotal:,} keys but there are {len(values):,} values")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise StoreError("the index is not an inner-product index")
        self._index, self.values, self.factory = index, values, factory
        self.count, self.dim = int(index.ntotal), int(index.d)
        faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES * self.dim

    @classmethod
    def build(cls, keys: Floats, values: Ints, factory: str = "Flat") -> FaissStore:
        """Train an index of that FAISS factory string on keys (N,D) and add them.

        Raises:
            StoreError: FAISS refuses the factory string, or there are too few keys to train it.
        """
        index = empty_index(factory, keys.shape[1])
        try:
            if not index.is_trained:
                index.train(keys)
            index.add(keys)
        except RuntimeError as error:
            raise StoreError(f"the store {factory!r} cannot be trained on {len(keys):,} keys") from error
        return cls(index, values, factory)

    @classmethod
    def read(cls, path: Path, values: Ints, factory: str) -> FaissStore:
        """Read an index file.

        Raises:
            StoreError: FAISS cannot read it, or it does not fit the values.
        """
        faiss.set_deserialization_vector_byte_limit(READ_LIMIT_BYTES)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise StoreError(f"{path.name} is not an index that FAISS can read") from error
        return cls(index, values, factory)

    def write(self, path: Path) -> None:
        """Write the index file (not atomic: a bundle's writer sees to that).

        Raises:
            StoreError: the disk is full, or cannot be written.
        """
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise StoreError(f"{path.name} could not be written: is the disk full?") from error

    def search(self, queries: Floats, k: int) -> Neighbors:
        """Search; queries without k entries get id -1 for the rest."""
        similarities, ids = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, self.count))
        return _ordered(similarities, ids, self.values, k)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """Decoded copies of the keys."""
        for part in _parts(self.count, self.dim):
            yield self._index.reconstruct_n(part.start, part.stop - part.start), self.values[part]


def _parts(count: int, dim: int) -> Iterator[slice]:
    rows = max(1, CHUNK_BYTES // (4 * dim))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def empty_index(factory: str, dim: int) -> Any:
    """An untrained index for keys of dim numbers.

    Raises:
        StoreError: the factory string is not one of an index that looks at every entry, or FAISS refuses it.
    """
    if not EXHAUSTIVE.fullmatch(factory):
        raise StoreError(
            f"there is no store {factory!r}: give auto, Flat, SQ8, SQ6, SQ4, SQfp16, PQ<bytes> or OPQ<n>,PQ<n>"
        )
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise StoreError(f"FAISS cannot make the store {factory!r} for keys of {dim} numbers") from error


def _ordered(similarities: Floats, ids: Ints, values: Ints, k: int) -> Neighbors:
    """Sort by (similarity descending, id ascending) and fill up to k places with -1."""
    order = np.lexsort((ids, -similarities), axis=1)
    similarities, ids = np.take_along_axis(similarities, order, 1), np.take_along_axis(ids, order, 1)
    # An id of -1 must not reach into the values: it would pick the last one.
    found = np.where(ids >= 0, values[np.maximum(ids, 0)], -1)
    missing = ((0, 0), (0, k - ids.shape[1]))
    return Neighbors(
        np.pad(similarities, missing, constant_values=-np.inf),
        np.pad(ids, missing, constant_values=-1),
        np.pad(found, missing, constant_values=-1),
    )

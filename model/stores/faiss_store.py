"""Keys in a FAISS index, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import BundleError, StoreError
from secondlook.model.manifest import SearchInfo
from secondlook.model.stores.factory import FACTORY, FEWEST_PER_CENTROID, check_trainable, is_exhaustive
from secondlook.model.stores.store import Neighbors, ordered, parts

_faiss: Any = faiss  # Its type hints miss the constructors of search parameters.

SAMPLE_PER_CENTROID = 64
"""Keys for each centroid that training looks at, between that and the 256 beyond which FAISS leaves keys out."""

SAMPLE, SAMPLE_BYTES = 65_536, 512 << 20
"""Keys that training looks at in any case, where there are as many, and of how many bytes at most."""

BLAS_FROM_QUERIES = 8
"""Flat search goes through BLAS from so many queries on: below it FAISS's own loop was faster (decision 006)."""

REFINED = 3
"""Keys that are re-ranked, in multiples of k."""

_OF_RANGES = (_faiss.ScalarQuantizer.QT_8bit, _faiss.ScalarQuantizer.QT_6bit, _faiss.ScalarQuantizer.QT_4bit)
"""Codes that are places in a range of each number; those of 16 bits are numbers."""

READ_LIMIT_BYTES = 1 << 40
"""FAISS refuses an index file that asks for a longer vector than this."""


class FaissStore:
    """A FAISS inner-product index whose ids are positions; never changed once built."""

    def __init__(self, index: Any, values: Ints, factory: str, search: SearchInfo | None = None) -> None:
        if index.ntotal != len(values):
            raise StoreError(f"the index has {index.ntotal:,} keys but there are {len(values):,} values")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise StoreError("the index is not an inner-product index")
        self._index, self.values, self.factory = index, values, factory
        self.search_info = search or SearchInfo()
        self.count, self.dim = int(index.ntotal), int(index.d)
        self._prepared: dict[int, Any] = {}  # search parameters by k: making them anew takes longer than some searches

    @classmethod
    def build(cls, keys: Floats, values: Ints, factory: str = "Flat") -> FaissStore:
        """Train an index of that FAISS factory string on a sample of keys (N,D) and add them all.

        Raises:
            StoreError: FAISS refuses the factory string, or there are too few keys to train it.
        """
        index = empty_index(factory, keys.shape[1])
        wanted = trained_on(factory, *keys.shape)
        try:
            if not index.is_trained:
                sample = np.random.default_rng(0).permutation(len(keys))[:wanted]
                index.train(keys[np.sort(sample)] if wanted < len(keys) else keys)
            index.add(keys)
        except RuntimeError as error:
            raise StoreError(f"FAISS cannot make the store {factory!r} of keys of {keys.shape[1]} numbers") from error
        return cls(index, values, factory)

    @classmethod
    def read(
        cls, path: Path, values: Ints, factory: str, search: SearchInfo | None = None, *, mapped: bool = False
    ) -> FaissStore:
        """Read an index file. ``mapped``: leave the keys in it, so that processes that have it open share their memory.

        A file that is mapped must never be written to again; it may be removed.

        Raises:
            StoreError: FAISS cannot read it, or it does not fit the values.
        """
        faiss.set_deserialization_vector_byte_limit(READ_LIMIT_BYTES)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        except RuntimeError as error:
            raise StoreError(f"{path.name} is not an index that FAISS can read") from error
        return cls(index, values, factory, search)

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search looks at every entry, so that only quantisation stands between it and the exact one."""
        return is_exhaustive(self.factory)

    def search_settings(self) -> list[SearchInfo]:
        """The search settings worth trying, cheapest first; none for an exhaustive store."""
        index = _innermost(self._index)
        if isinstance(index, faiss.IndexIVF):
            steps = sorted({most * 2**step // 4 for step in range(32) for most in (4, 6)})
            return [SearchInfo(lists=lists) for lists in (*(s for s in steps if s < index.nlist), index.nlist)]
        if isinstance(index, faiss.IndexHNSW):
            steps = sorted({most * 2**step for step in range(4, 11) for most in (2, 3)})
            return [SearchInfo(candidates=some) for some in (*steps, 4096)]
        return []

    def stored_bytes(self) -> int:
        """Size of the index as it is written."""
        return int(faiss.serialize_index(self._index).nbytes)

    def with_search(self, search: SearchInfo) -> FaissStore:
        """The same index, searched in another way."""
        return FaissStore(self._index, self.values, self.factory, search)

    @cached_property
    def early_exit(self) -> FaissStore | None:
        """The same index with the settings of the early exit's first search; None where there is no early exit."""
        early_exit = self.search_info.early_exit
        return (
            self.with_search(SearchInfo(lists=early_exit.lists, candidates=early_exit.candidates))
            if early_exit
            else None
        )

    def write(self, path: Path) -> None:
        """Write the index file (not atomic: a bundle's writer sees to that).

        Raises:
            BundleError: the disk is full, or cannot be written.
        """
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise BundleError(f"{path.name} could not be written: is the disk full?") from error

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """Search; queries without k entries get id -1 for the rest.

        Raises:
            StoreError: ``mask`` is given and the store is a PQ without IVF, which FAISS cannot search in part.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        nearest = min(k, self.count)
        if not nearest:  # which FAISS takes for a mistake
            return ordered(
                np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), self.values, k
            )
        if mask is not None:
            selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            parameters = _parameters(self._index, self.search_info, nearest, selector)
            try:
                similarities, ids = self._index.search(queries, nearest, params=parameters)
            except RuntimeError as error:
                raise StoreError(f"the store {self.factory!r} cannot search among some of its entries") from error
        elif self.is_exhaustive:
            # The setting is the process's, and another store may have keys of another size.
            faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES * self.dim
            similarities, ids = self._index.search(queries, nearest)
        else:
            if nearest not in self._prepared:
                self._prepared[nearest] = _parameters(self._index, self.search_info, nearest, None)
            similarities, ids = self._index.search(queries, nearest, params=self._prepared[nearest])
        return ordered(similarities, ids, self.values, k)

    def is_finite(self) -> bool:
        """Whether all numbers of all keys are finite.

        Of codes it is enough that what they stand for is: a million of them take seconds to decode.
        """
        meant = _meant(self._index)
        if meant is None:
            return all(np.isfinite(keys).all() for keys, _ in self.chunks())
        return all(np.isfinite(numbers).all() for numbers in meant)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """Decoded copies of the keys."""
        for part in parts(self.count, self.dim):
            yield self._index.reconstruct_n(part.start, part.stop - part.start), self.values[part]


def trained_on(factory: str, count: int, dim: int) -> int:
    """On how many keys of dim numbers at most an index of that factory string is trained, of ``count`` to hold.

    Raises:
        StoreError: ``count`` is too few.
    """
    needed = check_trainable(factory, count)
    wanted = max(SAMPLE, needed // FEWEST_PER_CENTROID * SAMPLE_PER_CENTROID)
    return max(needed, min(wanted, SAMPLE_BYTES // (4 * dim)))


def bytes_per_entry(factory: str, dim: int) -> int:
    """Of memory that an index of that factory string takes for each key of dim numbers.

    Raises:
        StoreError: as for ``empty_index``.
    """
    whole = empty_index(factory, dim)  # it owns what is in it, as long as anybody has it
    return _bytes_per_entry(whole)


def _bytes_per_entry(part: Any) -> int:
    index: Any = faiss.downcast_index(part)
    if isinstance(index, _faiss.IndexPreTransform):
        return _bytes_per_entry(index.index)
    if isinstance(index, _faiss.IndexRefine):
        return _bytes_per_entry(index.base_index) + _bytes_per_entry(index.refine_index)
    if isinstance(index, _faiss.IndexIVF):
        return int(index.code_size) + np.dtype(np.int64).itemsize
    if isinstance(index, _faiss.IndexHNSW):
        # The links of its lowest level, and what says where they are.
        return _bytes_per_entry(index.storage) + 4 * int(index.hnsw.nb_neighbors(0)) + 16
    return int(index.code_size)


def _meant(part: Any) -> list[Floats] | None:
    """All numbers that an index's codes may stand for; None where its keys are numbers themselves."""
    index: Any = faiss.downcast_index(part)
    if isinstance(index, _faiss.IndexRefine):
        # Keys are decoded from the finer one; the other only finds them.
        return _meant(index.refine_index)
    if isinstance(index, _faiss.IndexHNSW):
        return _meant(index.storage)
    middles: list[Floats] = []
    if isinstance(index, _faiss.IndexIVF):
        middles = [index.quantizer.reconstruct_n(0, index.nlist)]
    if hasattr(index, "sq") and index.sq.qtype in _OF_RANGES:
        return [*middles, faiss.vector_to_array(index.sq.trained)]
    if hasattr(index, "pq"):
        return [*middles, faiss.vector_to_array(index.pq.centroids)]
    return None


def _innermost(index: Any) -> Any:
    """The index that decides which entries are looked at, inside a rotation or a re-ranking."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _innermost(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _innermost(index.base_index)
    return index


def _parameters(index: Any, search: SearchInfo, k: int, selector: Any) -> Any:
    """FAISS's parameters of one search, for an index and those inside it."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _faiss.SearchParametersPreTransform(index_params=_parameters(index.index, search, k, selector))
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(index.base_index, search, REFINED * k, selector)
        return _faiss.IndexRefineSearchParameters(k_factor=REFINED, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return _faiss.SearchParametersIVF(nprobe=search.lists or 1, sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return _faiss.SearchParametersHNSW(efSearch=max(search.candidates or 0, k), sel=selector)
    return _faiss.SearchParameters(sel=selector)


def empty_index(factory: str, dim: int) -> Any:
    """An untrained index for keys of dim numbers.

    Raises:
        StoreError: the factory string is not one of a store, or FAISS refuses it.
    """
    if not FACTORY.fullmatch(factory):
        raise StoreError(
            f"there is no store {factory!r}: give auto, Flat, SQ8, SQ6, SQ4, SQfp16, PQ<bytes>, IVF<lists>,<one of "
            "those> or HNSW<links>"
        )
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise StoreError(f"FAISS cannot make the store {factory!r} for keys of {dim} numbers") from error

"""Where keys are searched: FAISS, and an exact reference in numpy that the others are held to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import BundleError, ParameterError, StoreError
from secondlook.model.manifest import SearchInfo
from secondlook.model.stores.milvus_server import MAX_K

_faiss: Any = faiss  # Its type hints miss the constructors of search parameters.

# A zero, or a graph of one link, makes FAISS end the process instead of refusing.
_N, _LINKS, _CODE = r"[1-9]\d{0,8}", r"([2-9]|[1-9]\d{1,3})", r"(Flat|SQ(4|6|8|fp16|bf16))"
_PQ = rf"PQ{_N}(x[1-9]\d?)?"
FACTORY = re.compile(
    rf"({_CODE}|(OPQ{_N}(_{_N})?,)?{_PQ}"
    rf"|(OPQ{_N}(_{_N})?,)?IVF{_N}(_HNSW{_LINKS})?,({_CODE}|{_PQ}(fs)?)(,RFlat|,Refine\({_CODE}\))?"
    rf"|HNSW{_LINKS}(,{_CODE})?)"
)
"""The FAISS factory strings that make a store here."""

FEWEST_PER_CENTROID = 39
"""Keys for each centroid below which FAISS calls its own training poor."""

SAMPLE_PER_CENTROID = 64
"""Keys for each centroid that training looks at, between that and the 256 beyond which FAISS leaves keys out."""

SAMPLE = 65_536
"""Keys that training looks at in any case, where there are as many."""

BLAS_FROM_QUERIES = 8
"""Flat search goes through BLAS from so many queries on: below it FAISS's own loop was faster (decision 006)."""

REFINED = 3
"""Where keys are re-ranked, so many times k are."""

FLAT_BYTES = 2 << 20
"""Up to this size ``auto`` keeps keys as they are and looks at all of them."""

LISTS_PER_ROOT = 2
"""``auto`` makes this many lists for each square root of the number of entries, as a power of two."""

MAX_APPROXIMATE_K = 2048
"""Most neighbours asked of an IVF or HNSW store, whose lists or candidates hold only some; a GPU index's limit too."""

CHUNK_BYTES = 16 << 20
"""Keys are handed out in chunks of about this size: between two, a server answers others."""

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
    search_info: SearchInfo

    @property
    def values(self) -> Ints:
        """(N,) class labels, in id order."""
        ...

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """The k entries of largest inner product with each of queries (B,D) float32, of those marked in among (N,)."""
        ...

    @property
    def early_exit(self) -> Store | None:
        """The same entries, searched quickly, where there is such a search."""
        ...

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys (n,D) and values (n,), a chunk at a time, in id order; decoded where they are quantised."""
        ...


class TunableStore(Store, Protocol):
    """A store that can be searched with more or less effort."""

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search looks at every entry."""
        ...

    def search_settings(self) -> list[SearchInfo]:
        """The search parameters worth trying, cheapest first; none for an exhaustive store."""
        ...

    def with_search(self, search: SearchInfo) -> Self:
        """The same entries, searched in another way."""
        ...


class ExactStore:
    """All inner products, in numpy: the reference."""

    def __init__(self, keys: Floats, values: Ints) -> None:
        self._keys, self.values = keys, values
        self.count, self.dim = keys.shape
        self.search_info = SearchInfo()
        self.early_exit = None

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """Exact search; ties in id order."""
        similarities = queries @ self._keys.T
        nearest = min(k, self.count)
        if mask is not None:
            similarities[:, ~mask] = -np.inf
            nearest = min(nearest, int(mask.sum()))
        ids = np.argsort(-similarities, axis=1, kind="stable")[:, :nearest]
        return ordered(np.take_along_axis(similarities, ids, axis=1), ids, self.values, k)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """The keys as given."""
        for part in parts(self.count, self.dim):
            yield self._keys[part], self.values[part]


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
        needed = check_trainable(factory, len(keys))
        try:
            if not index.is_trained:
                wanted = max(SAMPLE, needed // FEWEST_PER_CENTROID * SAMPLE_PER_CENTROID)
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
        """The search parameters worth trying, cheapest first; none for an exhaustive store."""
        index = _innermost(self._index)
        if isinstance(index, faiss.IndexIVF):
            steps = sorted({most * 2**step // 4 for step in range(32) for most in (4, 6)})
            return [SearchInfo(lists=lists) for lists in (*(s for s in steps if s < index.nlist), index.nlist)]
        if isinstance(index, faiss.IndexHNSW):
            return [SearchInfo(candidates=2**step) for step in range(5, 13)]
        return []

    def stored_bytes(self) -> int:
        """Size of the index as it is written."""
        return int(faiss.serialize_index(self._index).nbytes)

    def with_search(self, search: SearchInfo) -> FaissStore:
        """The same index, searched in another way."""
        return FaissStore(self._index, self.values, self.factory, search)

    @cached_property
    def early_exit(self) -> FaissStore | None:
        """The same index, searched quickly, where there is such a search."""
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

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """Decoded copies of the keys."""
        for part in parts(self.count, self.dim):
            yield self._index.reconstruct_n(part.start, part.stop - part.start), self.values[part]


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


def parts(count: int, dim: int) -> Iterator[slice]:
    """Slices of count keys of dim numbers, of about CHUNK_BYTES each."""
    rows = max(1, CHUNK_BYTES // (4 * dim))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


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


def is_exhaustive(factory: str) -> bool:
    """Whether a search in a store of that factory string looks at every entry."""
    return not re.search("IVF|HNSW|DISKANN", factory)


def keeps_keys(factory: str) -> bool:
    """Whether a store of that factory string (FAISS's or Milvus's) keeps keys as they are."""
    return not re.search("SQ|PQ", factory)


def check_trainable(factory: str, count: int) -> int:
    """The fewest keys that a store of that factory string is trained on.

    Raises:
        StoreError: count is below it.
    """
    centroids = [int(lists) for lists in re.findall(r"IVF(\d+)", factory)]
    centroids += [2 ** int(bits or 8) for bits in re.findall(r"(?<!O)PQ\d+(?:x(\d+))?", factory)]
    needed = FEWEST_PER_CENTROID * max(centroids, default=0)
    if count < needed:
        raise StoreError(
            f"the store {factory!r} cannot be trained on {count:,} entries, it needs {needed:,}: "
            "choose fewer lists or shorter codes, or Flat"
        )
    return needed


def check_k(k: int | None, *, is_exhaustive: bool, kind: Literal["faiss", "milvus"] = "faiss") -> None:
    """Refuse a k that a store cannot serve.

    Raises:
        ParameterError: k is beyond MAX_APPROXIMATE_K in an approximate FAISS store, and not None (= the exact sum); or
            beyond what Milvus serves, or None there.
    """
    if kind == "milvus":
        if k is None or k > MAX_K:
            raise ParameterError(f"k must be at most {MAX_K:,} with keys in Milvus, not {'all' if k is None else k}")
        return
    if not is_exhaustive and k is not None and k > MAX_APPROXIMATE_K:
        raise ParameterError(
            f"k must be at most {MAX_APPROXIMATE_K:,} (or all) with a store that is searched in part, not {k:,}"
        )


def choose_store(count: int, dim: int, fewest: int | None = None) -> tuple[str, str]:
    """A factory string for count keys of dim numbers, and the reason in a sentence (docs/decisions/006).

    Where some may yet be missing, ``fewest`` is how many are there in any case, to train on.
    """
    size = count * dim * 4
    if size <= FLAT_BYTES:
        return "Flat", f"{count:,} keys of {dim} numbers are {size / 1e6:,.1f} MB, soon looked through as they are"
    lists = 2 ** round(np.log2(LISTS_PER_ROOT * np.sqrt(count)))
    lists = max(1, min(lists, 2 ** int(np.log2((fewest or count) / FEWEST_PER_CENTROID))))
    return (
        f"IVF{lists},SQ8",
        f"{count:,} keys of {dim} numbers would be {size / 1e6:,.0f} MB to look through for each query: "
        f"a byte a number and {lists:,} lists, of which a few are looked at",
    )


def ordered(similarities: Floats, ids: Ints, values: Ints, k: int) -> Neighbors:
    """Order ties by id, the rest being in order, and fill up to k places with -1."""
    if (similarities[:, 1:] >= similarities[:, :-1]).any():
        order = np.lexsort((ids, -similarities), axis=1)
        similarities, ids = np.take_along_axis(similarities, order, 1), np.take_along_axis(ids, order, 1)
    if ids.size and ids.min() >= 0:
        found = values[ids]
    else:
        # An id of -1 must not reach into the values: it would pick the last one.
        found = np.where(ids >= 0, values[np.maximum(ids, 0)], -1)
        similarities = np.where(ids >= 0, similarities, np.float32(-np.inf))
    if ids.shape[1] == k:
        return Neighbors(similarities, ids, found)
    missing = ((0, 0), (0, k - ids.shape[1]))
    return Neighbors(
        np.pad(similarities, missing, constant_values=-np.inf),
        np.pad(ids, missing, constant_values=-1),
        np.pad(found, missing, constant_values=-1),
    )

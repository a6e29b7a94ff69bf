"""What a store is, and the exact reference in numpy that the others are held to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints

if TYPE_CHECKING:
    from secondlook.model.manifest import SearchInfo

CHUNK_BYTES = 16 << 20
"""Keys are handed out in chunks of about this size: between two, a server answers others."""


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

    @property
    def search_info(self) -> SearchInfo:
        """How much of it a search looks at."""
        ...

    @property
    def values(self) -> Ints:
        """(N,) class labels, in id order."""
        ...

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """The k entries of largest inner product with each of queries (B,D) float32, of those marked in mask (N,)."""
        ...

    @property
    def early_exit(self) -> Store | None:
        """The same entries with the settings of the early exit's first search; None where there is no early exit."""
        ...

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys (n,D) and values (n,), a chunk at a time, in id order; decoded where they are quantised."""
        ...


class TunableStore(Store, Protocol):
    """A store that can be searched with several settings: the more it looks at, the slower."""

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search looks at every entry."""
        ...

    def search_settings(self) -> list[SearchInfo]:
        """The search settings worth trying, cheapest first; none for an exhaustive store."""
        ...

    def with_search(self, search: SearchInfo) -> Self:
        """The same entries, searched in another way."""
        ...


class Exhaustive:
    """What is the same for every store that compares all entries in one way.

    It needs no manifest to be searched: where a GPU is measured there may be PyTorch alone (``benchmarks.gpu``).
    """

    early_exit = None

    @cached_property
    def search_info(self) -> SearchInfo:
        """Nothing to say."""
        from secondlook.model.manifest import SearchInfo

        return SearchInfo()


class ExactStore(Exhaustive):
    """All inner products, in numpy: the reference."""

    def __init__(self, keys: Floats, values: Ints) -> None:
        self._keys, self.values = keys, values
        self.count, self.dim = keys.shape

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


def parts(count: int, dim: int) -> Iterator[slice]:
    """Slices of count keys of dim numbers, of about CHUNK_BYTES each."""
    rows = max(1, CHUNK_BYTES // (4 * dim))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


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

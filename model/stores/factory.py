"""What a store's factory string says, and which one suits so many keys."""

from __future__ import annotations

import re

import numpy as np

from secondlook.model.errors import ParameterError, StoreError
from secondlook.model.manifest import StoreInfo
from secondlook.model.stores.milvus_server import MAX_K

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

FLAT_BYTES = 2 << 20
"""Up to this size ``auto`` keeps keys as they are and looks at all of them."""

FLAT_ENTRIES, FLAT_ENTRIES_BYTES = 2000, 16 << 20
"""Up to so many entries, of up to this size, it does so too: lists of a hundred would spare little and hide some."""

LISTS_PER_ROOT = 2
"""``auto`` makes this many lists for each square root of the number of entries, as a power of two."""

GRAPH_DIM, GRAPH_NUMBERS = 256, 1 << 27
"""Of keys so wide, from so many numbers in all on, ``auto`` makes a graph: lists were half as fast (decision 025)."""

MAX_APPROXIMATE_K = 2048
"""Most neighbours asked of an IVF or HNSW store, whose lists or candidates hold only some; a GPU index's limit too."""


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


def check_k(k: int | None, store: StoreInfo) -> None:
    """Refuse a k that a store cannot serve.

    Raises:
        ParameterError: k is beyond MAX_APPROXIMATE_K in an approximate FAISS store, and not None (= the exact sum); or
            beyond what Milvus serves, or None there.
    """
    if store.kind == "milvus":
        if k is None or k > MAX_K:
            raise ParameterError(f"k must be at most {MAX_K:,} with keys in Milvus, not {'all' if k is None else k}")
        return
    if not is_exhaustive(store.factory) and k is not None and k > MAX_APPROXIMATE_K:
        raise ParameterError(
            f"k must be at most {MAX_APPROXIMATE_K:,} (or all) with a store that is searched in part, not {k:,}"
        )


def lists_of(count: int, fewest: int | None = None) -> int:
    """As many lists as suit count keys, of which at least ``fewest`` will be there to train on."""
    lists = 2 ** round(np.log2(LISTS_PER_ROOT * np.sqrt(count)))
    return int(max(1, min(lists, 2 ** int(np.log2((fewest or count) / FEWEST_PER_CENTROID)))))


def choose_store(count: int, dim: int, fewest: int | None = None) -> tuple[str, str]:
    """A factory string for count keys of dim numbers, and the reason in a sentence (docs/decisions/006).

    Where some may yet be missing, ``fewest`` is how many are there in any case, to train on.
    """
    size = count * dim * 4
    if size <= FLAT_BYTES or (count <= FLAT_ENTRIES and size <= FLAT_ENTRIES_BYTES):
        return "Flat", f"{count:,} keys of {dim} numbers are {size / 1e6:,.1f} MB, soon looked through as they are"
    if dim >= GRAPH_DIM and count * dim >= GRAPH_NUMBERS:
        return (
            "HNSW32,SQ8",
            f"{count:,} keys of {dim} numbers would be {size / 1e6:,.0f} MB to look through for each query: "
            "a byte a number and a graph, along which some are looked at",
        )
    lists = lists_of(count, fewest)
    return (
        f"IVF{lists},SQ8",
        f"{count:,} keys of {dim} numbers would be {size / 1e6:,.0f} MB to look through for each query: "
        f"a byte a number and {lists:,} lists, of which a few are looked at",
    )

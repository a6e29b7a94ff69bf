"""What an index needs of memory: its store, and beside it no more than some constants (docs/indexing-at-scale.md)."""

from __future__ import annotations

from secondlook.indexer.datasets.folders import MOST_HELD, holdout_share
from secondlook.indexer.fitting.class_shape import SAMPLE as SHAPED
from secondlook.indexer.fitting.class_shape import SAMPLE_WIDE as SHAPED_WIDE
from secondlook.indexer.fitting.class_shape import WIDE
from secondlook.indexer.fitting.linear_head import MOST_BYTES
from secondlook.indexer.fitting.neighbors import KEYS_AT_ONCE, QUERIES_AT_ONCE
from secondlook.indexer.fitting.novelty import ENTRIES_LEFT, IMAGES_LEFT_OUT
from secondlook.model.memory import check_memory
from secondlook.model.stores.faiss_store import bytes_per_entry, trained_on
from secondlook.model.stores.store import CHUNK_BYTES

FIXED = 40 << 20
"""For what does not grow with anything: images and sheets on their way, threads, libraries' own."""

PER_ENTRY = 400
"""Bytes of an entry's place, class, picture and look, some of them twice for a while."""

GROWN, WHOLE = 1.5, 1.1
"""Lists of a store grow by doubling: so much of what is in them do they have; and so much one that has no lists."""

LISTED = 200
"""Nearest entries of an image that are kept."""


def index_memory(
    entries: int,
    dim: int,
    factory: str | None = "Flat",
    classes: int = 0,
    *,
    linear: bool = False,
    measured: bool = True,
) -> int:
    """Bytes of memory that an index needs at its widest, beyond what its network takes.

    Keys and contact sheets lie on the disk. ``linear``: a linear head is fitted; ``measured``: anything is measured on
    a holdout. ``factory`` is None where the store is elsewhere.
    """
    size = 4 * entries * dim
    store = training = 0
    if factory is not None:
        store = int(entries * bytes_per_entry(factory, dim) * (GROWN if "IVF" in factory else WHOLE))
    if factory is not None and factory != "Flat":
        # Some keys, and their differences from their lists' middles.
        training = 8 * dim * min(entries, trained_on(factory, entries, dim))
    head = 3 * min(size, MOST_BYTES) if linear else 0
    fit = 0
    if measured:
        held = min(int(entries * holdout_share(entries)), MOST_HELD)
        search = 12 * QUERIES_AT_ONCE * min(entries, KEYS_AT_ONCE, CHUNK_BYTES // (4 * dim)) + 2 * CHUNK_BYTES
        most = SHAPED if dim <= WIDE else SHAPED_WIDE
        shaped = entries // max(1, -(-entries // most))
        shape = 8 * dim * shaped + 24 * min(dim, shaped) ** 2 + 4 * CHUNK_BYTES
        novelty = 4 * dim * shaped + 16 * min(held, IMAGES_LEFT_OUT) * min(entries, ENTRIES_LEFT)
        fit = held * (8 * dim + 32 * classes + 20 * LISTED) + max(search, shape, novelty)
    return FIXED + PER_ENTRY * entries + max(training, store + max(fit, head))


def check_index_memory(
    entries: int, dim: int, factory: str | None = "Flat", classes: int = 0, *, linear: bool = False, measured: bool
) -> None:
    """Refuse an index that would not fit into memory.

    Raises:
        MemoryLimitError: it would not.
    """
    check_memory(
        index_memory(entries, dim, factory, classes, linear=linear, measured=measured),
        f"a cache of {entries:,} entries of {dim:,} numbers",
        "take a recipe that reduces its keys, a store that keeps fewer bits of them (--store SQ8), or fewer images",
    )

"""What an index needs of memory."""

from __future__ import annotations

from secondlook.indexer.fitting.neighbors import KEYS_AT_ONCE, QUERIES_AT_ONCE
from secondlook.model.memory import check_memory


def index_memory(entries: int, dim: int, *, measured: bool = True) -> int:
    """Bytes of memory that an index needs at its widest, were its store to keep the keys as they are."""
    # The keys as embedded and the store's own; where anything is measured on the holdout, the similarities (float32)
    # and order (int64) of some entries for some queries at a time.
    at_once = 12 * QUERIES_AT_ONCE * min(entries, KEYS_AT_ONCE)
    return 4 * entries * dim * 2 + (at_once if measured else 0)


def check_index_memory(entries: int, dim: int, *, measured: bool) -> None:
    """Refuse an index that would not fit into memory.

    Raises:
        MemoryLimitError: it would not.
    """
    check_memory(
        index_memory(entries, dim, measured=measured),
        f"a cache of {entries:,} entries of {dim:,} numbers",
        "take a recipe that reduces its keys, or fewer images",
    )

"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

LARGE_BYTES = 8 << 20
KEPT_BYTES = 16 << 20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back() -> None:
    """Give back blocks of ``LARGE_BYTES`` once they are freed, and keep ``KEPT_BYTES`` of smaller ones.

    By itself glibc takes the largest block that was freed, up to 32 MiB, for usual, and keeps twice as much from then
    on, in each of its arenas (threads have their own). What usual requests take is kept for the next, as new pages are
    slow. With another C library nothing is changed.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # musl has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)

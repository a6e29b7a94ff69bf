"""Recognises shortages of descriptors and memory, and bounds the connections by the descriptors that are left."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Iterator

MAX_CONNECTIONS = 2_048
"""Open at once, in each process."""
LEAST_CONNECTIONS = 8
RESERVED = 32
"""Descriptors kept for all that is no connection: journal, bundles, the pipes of a rebuild and of decoders."""

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, each once: pymilvus raises errors that are their own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def is_passing(error: BaseException | None) -> bool:
    """Whether an error or its cause will pass: a shortage on this machine, or a disk that does not answer."""
    return any(
        isinstance(one, OSError | MemoryError | sqlite3.OperationalError)
        or (isinstance(one, RuntimeError) and "start new thread" in str(one))
        for one in causes(error)
    )


def is_short(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a shortage of descriptors or memory."""
    return any(
        isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno in _SHORT) for one in causes(error)
    )


def most_connections() -> int:
    """How many connections may be open, by the descriptors that are left; raises the process's limit to the most."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # some systems have a lower one for all processes
            pass
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    used = len(os.listdir("/dev/fd"))
    return max(LEAST_CONNECTIONS, min(MAX_CONNECTIONS, soft - used - RESERVED))

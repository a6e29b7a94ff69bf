"""What a server does where descriptors or memory are short: it takes fewer connections, and says so to the others."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys

MAX_CONNECTIONS = 2_048
"""Open at once, in each process."""
LEAST_CONNECTIONS = 8
RESERVED = 32
"""Descriptors kept for all that is no connection: journal, bundles, the pipes of a rebuild and of decoders."""

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is of the machine and the moment: a shortage, or a disk that is away."""
    while error is not None:
        if isinstance(error, OSError | MemoryError | sqlite3.OperationalError):
            return True
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return True
        error = error.__cause__
    return False


def is_short(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a shortage of descriptors or memory."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORT):
            return True
        error = error.__cause__
    return False


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

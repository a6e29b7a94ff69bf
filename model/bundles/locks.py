"""Locks on folders, which keep processes that share a root apart; and waiting until something is on the disk.

They are flock's: a process that died holds none.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCKLESS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Errors of a file system without locks."""


class Lease:
    """A shared lock on a generation's folder, let go with the last bundle that holds it."""

    def __init__(self, folder: Path) -> None:
        # Not to be had where the folder is not there, or is being pruned.
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = lock_if_any(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def lock_folder(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    """Lock a folder; the descriptor that holds the lock until it is closed, which no other program inherits.

    Raises:
        OSError: there is no such folder or no locks on its file system; BlockingIOError: another holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def lock_if_any(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int | None:
    """The lock; None where the file system has none."""
    try:
        return lock_folder(folder, how)
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
        return None


@contextmanager
def root_lock(root: Path) -> Iterator[bool]:
    """Hold the root's own lock, while what it lists is changed; whether there is one, or the file system has none."""
    descriptor = lock_if_any(root, fcntl.LOCK_EX)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def fsync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A root: the folder of bundles, and the pointers to the active one and to the one before it.

Several processes may share a root. Locks (flock, so a dead process holds none) keep them apart: the root's own for the
short steps that change it, a draft's while it is written, and a generation's, shared, as long as anyone has it open.

::

    ROOT/CURRENT        the active generation's id; replaced by rename
    ROOT/PREVIOUS       the id that was active before it: never pruned, and what a server falls back on
    ROOT/<generation>/  a bundle (model.bundle)
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from model.errors import BundleError
from model.manifest import MANIFEST

GENERATION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
CURRENT, PREVIOUS = "CURRENT", "PREVIOUS"


class Lease:
    """A shared lock on a generation's folder, let go with the last bundle that holds it."""

    def __init__(self, folder: Path) -> None:
        # Not to be had where a file system has no locks (nothing is pruned there either) or the folder is being pruned.
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = _lock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def new_generation() -> str:
    """A generation id; ids sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


@contextmanager
def draft(root: Path) -> Iterator[Path]:
    """A temporary folder beside the bundles to put a new one's files into; removed unless ``commit`` took it.

    Raises:
        BundleError: the root cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _held(root):  # between mkdir and lock, another writer's sweep would take the folder for a dead one's
            _sweep(root)
            folder = root / f".{new_generation()}.draft"
            folder.mkdir()
            lock = _lock(folder)
    except OSError as error:
        raise BundleError(f"no bundle can be written below {root}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(root: Path) -> None:
    """Remove what killed writers left: drafts whose lock nobody holds, and pointers that were never put in place."""
    for pointer in root.glob(f".{CURRENT}.*"):
        pointer.unlink(missing_ok=True)
    for folder in root.glob(".*.draft"):
        try:
            lock = _lock(folder)
        except OSError:
            continue  # its writer is at work, or it is gone already
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """One process at a time changes what the root lists."""
    descriptor = _lock(root, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def publish(root: Path, folder: Path, generation: str) -> Path:
    """Give a complete draft its name, once all of it is on the disk; where the bundle now lies.

    Raises:
        BundleError: the root cannot be written.
    """
    for path in (*folder.iterdir(), folder):
        _fsync(path)
    target = root / generation
    try:
        os.rename(folder, target)
    except OSError as error:
        # Two servers may seed one root at once: the one that comes second finds a whole bundle there.
        if not (target / MANIFEST).exists():
            raise BundleError(f"{target} cannot be written: {error.strerror}") from error
    _fsync(root)
    return target


def activate(root: Path, generation: str) -> None:
    """Name a generation in CURRENT, atomically, and the one that it replaces in PREVIOUS.

    Raises:
        BundleError: there is no such generation, or the root cannot be written.
    """
    try:
        with _held(root):
            if generation not in generations(root):
                raise BundleError(f"there is no generation {generation} in {root}")
            # PREVIOUS first: if this ends here, it names the active one, which does no harm.
            with suppress(BundleError):
                if (replaced := active_generation(root)) != generation:
                    _point(root, PREVIOUS, replaced)
            _point(root, CURRENT, generation)
    except OSError as error:
        raise BundleError(f"{root}/{CURRENT} cannot be replaced: {error.strerror}") from error


def _point(root: Path, pointer: str, generation: str) -> None:
    temporary = root / f".{CURRENT}.{secrets.token_hex(4)}"
    try:
        temporary.write_text(generation + "\n")
        _fsync(temporary)
        os.replace(temporary, root / pointer)
        _fsync(root)
    except OSError:
        with suppress(OSError):  # a read-only file system refuses even to remove what is not there
            temporary.unlink()
        raise


def prune(root: Path, keep: int, among: Collection[str] | None = None) -> list[str]:
    """Remove the oldest generations beyond the newest ``keep``, of those in ``among``; those that were removed.

    Never the one in CURRENT or in PREVIOUS, nor one that any process has open or is opening, on this host or, where the
    file system passes locks on (NFS does), on another. A bundle that is open would outlive its files all the same: it
    is in memory, but for the entries' table, which stays readable while its file is open.

    Raises:
        BundleError: the root cannot be written.
    """
    removed = []
    try:
        with _held(root):
            spared = {named for pointer in (CURRENT, PREVIOUS) if (named := _named(root, pointer))}
            for generation in generations(root)[:-keep]:
                if among is not None and generation not in among:
                    continue
                if generation not in spared and _retire(root, generation):
                    removed.append(generation)
            _sweep(root)
    except OSError as error:
        raise BundleError(f"no bundle can be removed from {root}: {error.strerror}") from error
    return removed


def _retire(root: Path, generation: str) -> bool:
    """Make a draft of a generation that nobody has open: it is gone at once, and whoever sweeps next removes it."""
    try:
        lock = _lock(root / generation)
    except OSError:
        return False  # in use, or a file system without locks
    try:
        os.rename(root / generation, root / f".{generation}.draft")
    finally:
        os.close(lock)
    return True


def default_root() -> Path:
    """Where the bundle that comes with secondlook lies."""
    return Path(__file__).parent / "default"


def seed(root: Path) -> None:
    """Copy the default bundle into a root that has no bundles yet, so that a new volume starts with an answer.

    Raises:
        BundleError: the root cannot be written, or has lost its CURRENT: what it served is not to be guessed.
    """
    if (root / CURRENT).exists() or (root / PREVIOUS).exists():
        return
    generation = active_generation(default_root())
    found = generations(root)
    if found not in ([], [generation]):
        raise BundleError(f"{root} has bundles but no {CURRENT}: activate one of them (secondlook bundles activate)")
    if not found:
        with draft(root) as folder:
            shutil.copytree(default_root() / generation, folder, dirs_exist_ok=True)
            publish(root, folder, generation)
    activate(root, generation)


def active_generation(root: Path) -> str:
    """The generation named in CURRENT.

    Raises:
        BundleError: CURRENT is missing or names none.
    """
    named = _named(root, CURRENT)
    if named is None:
        raise BundleError(f"{root} has no active bundle: index a dataset into it first")
    if not named:
        raise BundleError(f"{root}/{CURRENT} does not name a generation")
    return named


def previous_generation(root: Path) -> str | None:
    """The generation that was active before the one in CURRENT, where there is one."""
    return _named(root, PREVIOUS) or None


def _named(root: Path, pointer: str) -> str | None:
    """The generation that a pointer names; None where there is no such file, empty where it names none."""
    try:
        named = (root / pointer).read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return None
    return named if GENERATION.fullmatch(named) else ""


def generations(root: Path) -> list[str]:
    """Ids of all bundles below the root, oldest first."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if GENERATION.fullmatch(path.name) and path.is_dir())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

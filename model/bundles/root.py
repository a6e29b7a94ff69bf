"""A root: the folder of bundles, and the pointers to the active one and to the one before it.

Several processes may share a root. Locks (flock, so a dead process holds none) keep them apart: the root's own for the
short steps that change it, a draft's while it is written, and a generation's, shared, as long as anyone has it open.
On a file system without locks, nothing is ever removed, and that only one process writes is the user's to see to.

::

    ROOT/CURRENT        the active generation's id; replaced by rename
    ROOT/PREVIOUS       the id that was active before it: never pruned, and what a server falls back on
    ROOT/REFUSED        ids that the acceptance check refused: kept apart when the newest are counted
    ROOT/<generation>/  a bundle (model.bundles.bundle)
    ROOT/jobs/          records of the rebuilds that servers ran (service.generations.records)
    ROOT/parts/         embedded shards (indexer.sharding.shards)
    ROOT/features/      what was embedded, by encoder (indexer.embedding.kept_features): removed with the last bundle of
                        an encoder; may be removed at any time
    ROOT/.primary/      locked by the one server that puts what was taught into Milvus (service.generations.cluster)
    ROOT/taught.sqlite  the journal (model.journal)
    ROOT/photos.json    which photos it was made of, and with which network (indexer.photos)

Nothing is written to a folder that has other things and none of these: ``require_root`` is asked first.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from secondlook.model.bundles.locks import fsync, lock_folder, lock_if_any, root_lock
from secondlook.model.bundles.old_features import features_in, remove_features
from secondlook.model.errors import BundleError
from secondlook.model.manifest import GENERATION, MANIFEST

CURRENT, PREVIOUS, REFUSED = "CURRENT", "PREVIOUS", "REFUSED"

OWN = re.compile(
    rf"{CURRENT}|{PREVIOUS}|{REFUSED}|jobs|parts|features|photos\.json|\.primary|taught\.sqlite.*|{GENERATION.pattern}"
    rf"|\.{GENERATION.pattern}\.draft|\.{CURRENT}\..*"
)
"""Names of what is kept in a root."""

LITTER = re.compile(
    r"lost\+found|@eaDir|\.DS_Store|\.localized|\.directory|\.Trash.*|\.nfs.*|\.snapshots?|\.fseventsd|\.Spotlight-V100"
    r"|\.git(ignore|keep)|Thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
"""Names of what file systems, desktops and version control put into folders that are empty to their owners."""


def require_root(root: Path) -> None:
    """Refuse what is neither a root nor can become one: a root is new, empty, or has nothing but what is kept in one.

    A folder that has a generation, names one in CURRENT or PREVIOUS, or has a journal may have other things too.

    Raises:
        BundleError: it has other things only, is no folder, or a link to what is not there; or its name is not UTF-8.
    """
    _require_utf8(root)
    if root.is_symlink() and not root.exists():
        raise BundleError(f"{root} is a link to {root.readlink()}, which is not there: make that folder first")
    try:
        names = sorted(path.name for path in root.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise BundleError(f"{root} is a file: name a folder for the bundles with --bundles") from error
    except OSError as error:
        raise BundleError(f"{root} cannot be read: {error.strerror}") from error
    other = [name for name in names if not OWN.fullmatch(name) and not LITTER.fullmatch(name)]
    if not other or generations(root) or _named(root, CURRENT) or _named(root, PREVIOUS) or "taught.sqlite" in names:
        return
    shown = ", ".join(name.encode(errors="replace").decode() for name in other[:3]) + (", …" if len(other) > 3 else "")
    raise BundleError(
        f"{root} is no folder of bundles, as it has other things ({shown}): name an empty or a new one with --bundles"
    )


def _require_utf8(root: Path) -> None:
    try:
        os.path.realpath(root).encode()
    except UnicodeEncodeError:  # FAISS could not read an index there
        shown = os.fsencode(root).decode(errors="backslashreplace")
        what = f"the name of {shown} is not UTF-8: name another folder for the bundles with --bundles"
        raise BundleError(what) from None


def generations(root: Path) -> list[str]:
    """Ids of all bundles below the root, oldest first."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if GENERATION.fullmatch(path.name) and path.is_dir())


def active_generation(root: Path) -> str:
    """The generation named in CURRENT.

    Raises:
        BundleError: CURRENT is missing or names none, or the root's name is not UTF-8.
    """
    _require_utf8(root)
    named = _named(root, CURRENT)
    if named is None:
        require_root(root)
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
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # it may be there: to take it for missing would have others answer, or be pruned
        raise BundleError(f"{root}/{pointer} cannot be read: {error.strerror}") from error
    return named if GENERATION.fullmatch(named) else ""


def new_generation() -> str:
    """A generation id; ids sort by time, also those of one second: the last part is which of its 65,536 parts it is."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{(now.microsecond << 16) // 1_000_000:04x}"


@contextmanager
def draft(root: Path) -> Iterator[Path]:
    """A temporary folder beside the bundles to put a new one's files into; removed unless ``commit`` took it.

    Raises:
        BundleError: the root cannot be written, or is none.
    """
    require_root(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with root_lock(root):  # between mkdir and lock, another writer's sweep would take the folder for a dead one's
            _sweep(root)
            folder = root / f".{new_generation()}.draft"
            folder.mkdir()
            lock = lock_if_any(folder)
    except OSError as error:
        raise BundleError(f"no bundle can be written below {root}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def publish(root: Path, folder: Path, generation: str) -> Path:
    """Give a complete draft its name, once all of it is on the disk; where the bundle now lies.

    Raises:
        BundleError: the root cannot be written.
    """
    for path in (*folder.iterdir(), folder):
        fsync(path)
    target = root / generation
    try:
        os.rename(folder, target)
    except OSError as error:
        # Two servers may seed one root at once: the one that comes second finds a whole bundle there.
        if not (target / MANIFEST).exists():
            raise BundleError(f"{target} cannot be written: {error.strerror}") from error
    fsync(root)
    return target


def activate(root: Path, generation: str) -> None:
    """Name a generation in CURRENT, atomically, and the one that it replaces in PREVIOUS.

    Raises:
        BundleError: there is no such generation, or the root cannot be written.
    """
    try:
        with root_lock(root):
            if generation not in generations(root):
                raise BundleError(f"there is no generation {generation} in {root}")
            # PREVIOUS first: if this ends here, it names the active one, which does no harm.
            with suppress(BundleError):
                if (replaced := active_generation(root)) != generation:
                    _point(root, PREVIOUS, replaced)
            _point(root, CURRENT, generation)
            if generation in (named := _refused(root)):
                write_lines(root, REFUSED, sorted(named - {generation}))
    except OSError as error:
        raise BundleError(f"{root}/{CURRENT} cannot be replaced: {error.strerror}") from error


def _point(root: Path, pointer: str, generation: str) -> None:
    write_lines(root, pointer, [generation])


def refuse(root: Path, generation: str) -> None:
    """Note that the acceptance check refused a generation; activating it takes the note back.

    Raises:
        BundleError: the root cannot be written.
    """
    try:
        with root_lock(root):
            write_lines(root, REFUSED, sorted({*_refused(root), generation}))
    except OSError as error:
        raise BundleError(f"{root}/{REFUSED} cannot be written: {error.strerror}") from error


def _refused(root: Path) -> set[str]:
    """The generations that are there and were refused."""
    try:
        named = (root / REFUSED).read_text("ascii", "replace").split()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {*named} & {*generations(root)}


def write_lines(root: Path, name: str, lines: list[str]) -> None:
    """Write a small file of a root: whole or not at all, and on the disk.

    Raises:
        OSError: the root cannot be written.
    """
    temporary = root / f".{CURRENT}.{secrets.token_hex(4)}"
    try:
        temporary.write_text("".join(f"{line}\n" for line in lines))
        fsync(temporary)
        os.replace(temporary, root / name)
        fsync(root)
    except OSError:
        with suppress(OSError):  # a read-only file system refuses even to remove what is not there
            temporary.unlink()
        raise


def prune(root: Path, keep: int, among: Collection[str] | None = None) -> list[str]:
    """Remove the oldest generations beyond the newest ``keep``, of those in ``among``; those that were removed.

    What the acceptance check refused does not count: of that, the newest alone is kept, to be activated by hand.
    Never the one in CURRENT or in PREVIOUS, nor one that any process has open or is opening, on this host or, where the
    file system passes locks on (NFS does), on another. A bundle that is open would outlive its files all the same: it
    is in memory, but for the entries' table, which stays readable while its file is open.

    Raises:
        BundleError: the root cannot be written.
    """
    removed = []
    gone: set[str] = set()
    try:
        with root_lock(root):
            spared = {named for pointer in (CURRENT, PREVIOUS) if (named := _named(root, pointer))}
            found, refused = generations(root), _refused(root)
            good, bad = ([one for one in found if (one in refused) is is_bad] for is_bad in (False, True))
            for generation in sorted(good[:-keep] + (bad[:-1] if keep else [])):
                if among is not None and generation not in among:
                    continue
                features = _features(root, generation)
                if generation not in spared and _retire(root, generation):
                    removed.append(generation)
                    gone |= features
            _sweep(root)
            remove_features(root, generations(root), gone)
    except OSError as error:
        raise BundleError(f"no bundle can be removed from {root}: {error.strerror}") from error
    return removed


def remove(root: Path, generation: str) -> None:
    """Remove one generation that nobody needs; was it the one in PREVIOUS, there is none any more.

    Raises:
        BundleError: it is not there, is active or open, or the root cannot be written.
    """
    try:
        with root_lock(root) as is_locked:
            current = _named(root, CURRENT)
            if generation not in generations(root):
                raise BundleError(f"there is no generation {generation} in {root}")
            if generation == current:
                raise BundleError(f"generation {generation} is active: activate another one first")
            if generation == _named(root, PREVIOUS) and not current:
                raise BundleError(
                    f"generation {generation} was active last, and {CURRENT} names none: activate another one first"
                )
            if not is_locked:
                raise BundleError(
                    f"{root} is on a file system without locks, so whether generation {generation} is open cannot be "
                    "told: stop what uses it and delete its folder"
                )
            features = _features(root, generation)
            if not _retire(root, generation):
                raise BundleError(f"generation {generation} is open in another process: end that first")
            _sweep(root)
            remove_features(root, generations(root), features)
    except OSError as error:
        raise BundleError(f"no bundle can be removed from {root}: {error.strerror}") from error


def forget_features(root: Path, names: Collection[str]) -> None:
    """Remove what was embedded with some encoders, by name, of which no generation is and which nobody uses."""
    with suppress(OSError), root_lock(root):  # what is left is removed when it was unused for long
        remove_features(root, generations(root), {*names})


def _features(root: Path, generation: str) -> set[str]:
    """What the generation's encoder embedded, by name; none where its manifest is damaged."""
    with suppress(BundleError):
        return features_in(root, [generation])
    return set()


def _retire(root: Path, generation: str) -> bool:
    """Make a draft of a generation that nobody has open: it is gone at once, and whoever sweeps next removes it."""
    try:
        lock = lock_folder(root / generation)
    except OSError:
        return False  # in use, or a file system without locks
    try:
        if _named(root, PREVIOUS) == generation:
            (root / PREVIOUS).unlink()
            fsync(root)
        os.rename(root / generation, root / f".{generation}.draft")
    finally:
        os.close(lock)
    return True


def _sweep(root: Path) -> None:
    """Remove the drafts and pointers that killed writers left: those whose lock nobody holds."""
    for pointer in root.glob(f".{CURRENT}.*"):
        pointer.unlink(missing_ok=True)
    for folder in root.glob(".*.draft"):
        try:
            lock = lock_folder(folder)
        except OSError:
            continue  # its writer is at work or may be, or it is gone already
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)

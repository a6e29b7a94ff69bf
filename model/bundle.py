"""Bundles: one immutable folder with everything a server needs, and the pointer to the active one.

Several processes may share a root. Locks (flock, so a dead process holds none) keep them apart: the root's own for the
short steps that change it, a draft's while it is written, and a generation's, shared, as long as anyone has it open.

::

    ROOT/CURRENT        the active generation's id; replaced by rename
    ROOT/PREVIOUS       the id that was active before it: never pruned, and what a server falls back on
    ROOT/<generation>/  manifest.json encoder.onnx network.safetensors keys.faiss values.npy entries.sqlite
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from model.cache import Ints
from model.engines import Engine, OnnxEngine
from model.entries import Entries
from model.errors import BundleError, EngineError, StoreError
from model.manifest import SCHEMA_VERSION, FileInfo, Manifest
from model.stores import FaissStore, Store

logger = logging.getLogger(__name__)

ENCODER, NETWORK, KEYS, VALUES, ENTRIES = (
    "encoder.onnx",
    "network.safetensors",
    "keys.faiss",
    "values.npy",
    "entries.sqlite",
)
MANIFEST = "manifest.json"
REQUIRED = (ENCODER, KEYS, VALUES, ENTRIES)
GENERATION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
CURRENT, PREVIOUS = "CURRENT", "PREVIOUS"
UNIT_TOLERANCE = 0.05
"""How far from 1 the canary's key lengths may be (reduced precision)."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified and can answer."""

    path: Path
    manifest: Manifest
    engine: Engine
    store: Store
    entries: Entries
    lease: Lease | None = None
    """Keeps it from being pruned; None for a draft."""


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


def commit(root: Path, folder: Path, manifest: Manifest) -> Path:
    """Complete a draft: write its manifest, make it durable, verify it, and give it its name.

    Raises:
        BundleError: the draft does not verify; nothing is left behind under a generation's name.
    """
    files = {path.name: _file_info(path) for path in sorted(folder.iterdir())}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n")
    verify(folder, manifest.generation)
    return _publish(root, folder, manifest.generation)


def _publish(root: Path, folder: Path, generation: str) -> Path:
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
            _publish(root, folder, generation)
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


def read_manifest(root: Path, generation: str) -> Manifest:
    """The manifest of one generation, files not checked.

    Raises:
        BundleError: it is missing, damaged or from another version.
    """
    return _manifest(root / generation, generation)


def open_bundle(
    root: Path,
    generation: str | None = None,
    *,
    threads: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Bundle:
    """Verify a bundle (the active one by default) and load it, its encoder and keys on the device asked for.

    ``precision`` is the network's on a GPU; auto = as the manifest says. On a processor it is float32.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        EngineError: there is no such device, or what it needs is not installed.
    """
    generation = generation or active_generation(root)
    if not GENERATION.fullmatch(generation):
        raise BundleError(f"{generation!r} is not a generation's id")
    lease = Lease(root / generation)
    bundle = replace(verify(root / generation, generation, threads=threads), lease=lease)
    if device == "cpu":
        return bundle
    return _on_device(
        bundle, device, bundle.manifest.network.bfloat16 if precision == "auto" else precision == "bfloat16"
    )


def _on_device(bundle: Bundle, device: str, bfloat16: bool) -> Bundle:
    """Encoder and keys moved to a GPU; keys that are too many for it stay where they are."""
    if NETWORK not in bundle.manifest.files:
        raise BundleError(f"bundle {bundle.manifest.generation} has no {NETWORK}: it runs on a processor only")
    try:
        from model.encoder import Encoder
        from model.engines import TorchEngine
        from model.network_file import load_network
        from model.torch_store import TorchStore
    except ModuleNotFoundError as error:
        raise EngineError(f"running on {device} needs {error.name}: install secondlook with the gpu extra") from error
    file = load_network(bundle.path / NETWORK)
    encoder = Encoder(file.network, bundle.manifest.recipe, file.projection)
    engine = TorchEngine(encoder, bundle.engine.size, device, bfloat16=bfloat16)
    if bundle.manifest.k is None:  # every answer goes through all keys, a chunk at a time, where the vote is computed
        return replace(bundle, engine=engine)
    try:
        return replace(bundle, engine=engine, store=TorchStore(bundle.store, device))
    except StoreError as error:
        logger.warning("%s: they are searched on the processor", error)
        return replace(bundle, engine=engine)


def verify(folder: Path, generation: str, *, threads: int = 0) -> Bundle:
    """Check sizes and hashes of all files, then counts, finite keys, and that the encoder answers.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
    """
    manifest = _manifest(folder, generation)

    def refuse(file: str, why: str) -> BundleError:
        return BundleError(f"bundle {generation} is refused: {file} {why}")

    for name in REQUIRED:
        if name not in manifest.files:
            raise refuse(MANIFEST, f"does not list {name}")
    for name, info in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise refuse(name, "is missing")
        try:
            found = _file_info(path)
        except OSError as error:
            raise refuse(name, f"cannot be read: {error.strerror}") from error
        if found.size != info.size:
            raise refuse(name, f"has {found.size:,} bytes, the manifest says {info.size:,}")
        if found.sha256 != info.sha256:
            raise refuse(name, "is damaged (its SHA-256 differs from the manifest's)")
    values = _values(folder / VALUES, len(manifest.classes), refuse)
    try:
        store = FaissStore.read(folder / KEYS, values, manifest.store.factory, manifest.store.search)
    except StoreError as error:
        raise refuse(KEYS, f"does not fit: {error}") from error
    if (store.count, store.dim) != (manifest.store.count, manifest.store.dim):
        raise refuse(
            KEYS,
            f"has {store.count:,} keys of {store.dim} numbers, "
            f"the manifest says {manifest.store.count:,} of {manifest.store.dim}",
        )
    if not all(np.isfinite(keys).all() for keys, _ in store.chunks()):
        raise refuse(KEYS, "has a key that is not finite")
    entries = Entries(folder / ENTRIES)
    if entries.count != store.count:
        raise refuse(ENTRIES, f"has {entries.count:,} entries for {store.count:,} keys")
    try:
        engine = OnnxEngine(folder / ENCODER, threads)
    except EngineError as error:
        raise refuse(ENCODER, f"cannot run: {error}") from error
    if (engine.size, engine.classes, engine.dim) != (
        (manifest.input.height, manifest.input.width),
        len(manifest.classes),
        store.dim,
    ):
        raise refuse(ENCODER, "has other inputs or outputs than the manifest says")
    canary = np.random.default_rng(0).integers(0, 256, (2, *engine.size, 3), dtype=np.uint8)
    logits, keys = engine.encode(canary)
    if not (np.isfinite(logits).all() and np.abs(np.linalg.norm(keys, axis=1) - 1).max() < UNIT_TOLERANCE):
        raise refuse(ENCODER, "gives no finite logits and unit keys for a test image")
    return Bundle(folder, manifest, engine, store, entries)


def _manifest(folder: Path, generation: str) -> Manifest:
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        version = content["schema_version"]
    except FileNotFoundError as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is not a manifest") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"bundle {generation} is refused: {MANIFEST} has schema version {version}, "
            f"this secondlook reads {SCHEMA_VERSION}"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is wrong at {where or 'the top'}") from error
    if manifest.generation != generation:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is of generation {manifest.generation}")
    return manifest


def _values(path: Path, classes: int, refuse: Callable[[str, str], BundleError]) -> Ints:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise refuse(VALUES, "is not an array") from error
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise refuse(VALUES, "is not a list of class numbers")
    if len(values) == 0 or values.min() < 0 or values.max() >= classes:
        raise refuse(VALUES, f"has a class outside 0 to {classes - 1}, or none")
    return np.asarray(values, np.int64)


def _file_info(path: Path) -> FileInfo:
    return FileInfo(size=path.stat().st_size, sha256=file_sha256(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

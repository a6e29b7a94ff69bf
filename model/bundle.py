"""Bundles: one immutable folder with everything a server needs, verified before it is used.

::

    <generation>/  manifest.json encoder.onnx network.safetensors keys.faiss values.npy entries.sqlite
                   directions.npy (C,D+1), where novelty goes by RMDS
                   taught.npy (n,D), the keys of taught entries, where the store keeps keys in fewer bits

The folder that they lie in is a root (model.root).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from model.cache import Floats, Ints
from model.engines import Engine, OnnxEngine
from model.entries import Entries, Entry
from model.errors import BundleError, EngineError, StoreAwayError, StoreError
from model.held import Calibrated
from model.journal_terms import SOURCE, number_in
from model.manifest import MANIFEST, READ_VERSIONS, FileInfo, Manifest
from model.milvus import Milvus, from_environment
from model.milvus_store import MilvusStore
from model.root import GENERATION, Lease, active_generation, publish
from model.stores import FaissStore, Store

logger = logging.getLogger(__name__)

ENCODER, NETWORK, KEYS, VALUES, ENTRIES, DIRECTIONS, TAUGHT = (
    "encoder.onnx",
    "network.safetensors",
    "keys.faiss",
    "values.npy",
    "entries.sqlite",
    "directions.npy",
    "taught.npy",
)
REQUIRED = (ENCODER, VALUES, ENTRIES)
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
    directions: Floats | None = None
    """(C,D+1) of RMDS; None where novelty does not go by it."""
    taught_keys: Floats | None = None
    """(n,D) of its own entries that were taught, in order of id; None where the store keeps keys as they are."""

    @cached_property
    def calibrated(self) -> Calibrated:
        """Its calibration, which changes while it is taught."""
        return Calibrated(self.manifest.calibration)

    @property
    def is_store_away(self) -> bool:
        """Whether the keys are on another machine that does not answer now."""
        return isinstance(self.store, MilvusStore) and self.store.is_away

    @cached_property
    def counts(self) -> Ints:
        """(C,) entries of each class."""
        return np.bincount(self.store.values, minlength=len(self.manifest.classes))

    @cached_property
    def taught(self) -> dict[int, list[Entry]]:
        """Its own entries of images that were taught and folded in, by the image's number."""
        found: dict[int, list[Entry]] = {}
        for entry in self.entries.beginning_with(SOURCE):
            if (number := number_in(entry.source)) is not None:
                found.setdefault(number, []).append(entry)
        return found

    @cached_property
    def exact_keys(self) -> dict[int, Floats]:
        """Keys (D,), by entry, that the store keeps in fewer bits."""
        if self.taught_keys is None:
            return {}
        ids = sorted(entry.id for own in self.taught.values() for entry in own)
        return dict(zip(ids, self.taught_keys, strict=True))


@dataclass(frozen=True)
class OpenEncoder:
    """The encoder of a bundle, without what it is searched in."""

    path: Path
    manifest: Manifest
    engine: Engine
    lease: Lease
    """Keeps the bundle from being pruned."""


def commit(root: Path, folder: Path, manifest: Manifest, milvus: Milvus | None = None) -> Path:
    """Complete a draft: write its manifest, make it durable, verify it, and give it its name.

    Raises:
        BundleError: the draft does not verify; nothing is left behind under a generation's name.
    """
    files = {path.name: _file_info(path) for path in sorted(folder.iterdir())}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n")
    verify(folder, manifest.generation, milvus=milvus)
    return publish(root, folder, manifest.generation)


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
    spare_core: bool = False,
    mapped: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    milvus: Milvus | None = None,
    even_away: bool = False,
) -> Bundle:
    """Verify a bundle (the active one by default) and load it, its encoder and keys on the device asked for.

    ``threads`` and ``spare_core`` are the processor engine's (``OnnxEngine``), ``mapped`` is the store's.
    ``precision`` is the network's on a GPU; auto = as the manifest says. On a processor it is float32.
    ``milvus`` and ``even_away`` are as for ``verify``.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        EngineError: there is no such device, or what it needs is not installed.
    """
    generation, lease = _leased(root, generation)
    bundle = verify(
        root / generation,
        generation,
        threads=threads,
        spare_core=spare_core,
        mapped=mapped,
        milvus=milvus,
        even_away=even_away,
    )
    bundle = replace(bundle, lease=lease)
    if device == "cpu":
        return bundle
    bfloat16 = bundle.manifest.network.bfloat16 if precision == "auto" else precision == "bfloat16"
    bundle = replace(bundle, engine=_on_device(bundle.path, bundle.manifest, device, bfloat16))
    # Kept elsewhere; or every answer goes through all keys, a chunk at a time, where the vote is computed.
    if bundle.manifest.store.kind != "faiss" or bundle.manifest.k is None:
        return bundle
    from model.torch_store import TorchStore

    try:
        return replace(bundle, store=TorchStore(bundle.store, device))
    except StoreError as error:  # too many
        logger.warning("%s: they are searched on the processor", error)
        return bundle


def open_encoder(
    root: Path, generation: str | None = None, *, device: Literal["cpu", "cuda"] = "cpu", threads: int = 0
) -> OpenEncoder:
    """Load a bundle's encoder alone (the active one's by default), its files verified; no key is read.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        EngineError: there is no such device, or what it needs is not installed.
    """
    generation, lease = _leased(root, generation)
    folder = root / generation
    manifest = _manifest(folder, generation)
    _check_files(folder, manifest, [name for name in (ENCODER, NETWORK) if name in manifest.files])
    engine: Engine = _engine(folder, manifest, threads)
    if device != "cpu":
        engine = _on_device(folder, manifest, device, manifest.network.bfloat16)
    return OpenEncoder(folder, manifest, engine, lease)


def _leased(root: Path, generation: str | None) -> tuple[str, Lease]:
    generation = generation or active_generation(root)
    if not GENERATION.fullmatch(generation):
        raise BundleError(f"{generation!r} is not a generation's id")
    return generation, Lease(root / generation)


def _on_device(folder: Path, manifest: Manifest, device: str, bfloat16: bool) -> Engine:
    """The encoder on a GPU."""
    if NETWORK not in manifest.files:
        raise BundleError(f"bundle {manifest.generation} has no {NETWORK}: it runs on a processor only")
    try:
        from model.encoder import Encoder
        from model.engines import TorchEngine
        from model.network_file import load_network
    except ModuleNotFoundError as error:
        raise EngineError(f"running on {device} needs {error.name}: install secondlook with the gpu extra") from error
    file = load_network(folder / NETWORK)
    encoder = Encoder(file.network, manifest.recipe, file.projection)
    return TorchEngine(encoder, (manifest.input.height, manifest.input.width), device, bfloat16=bfloat16)


def verify(
    folder: Path,
    generation: str,
    *,
    threads: int = 0,
    spare_core: bool = False,
    mapped: bool = False,
    milvus: Milvus | None = None,
    even_away: bool = False,
) -> Bundle:
    """Check sizes and hashes of all files, then counts, finite keys, and that the encoder answers.

    ``milvus`` is the server that holds the keys, where they are in one; None = the one in the environment. With
    ``even_away`` the bundle may be opened while that does not answer: its collection is checked when it does.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
    """
    manifest = _manifest(folder, generation)
    refuse = partial(_refusal, generation)
    _check_files(folder, manifest, manifest.files)
    values = _values(folder / VALUES, len(manifest.classes), refuse)
    store: Store
    if manifest.store.kind == "milvus":
        store = _in_milvus(manifest, values, milvus or from_environment(), even_away)
    else:
        store = _in_folder(folder, manifest, values, mapped)
    entries = Entries(folder / ENTRIES)
    if entries.count != store.count:
        raise refuse(ENTRIES, f"has {entries.count:,} entries for {store.count:,} keys")
    directions = _matrix(folder, manifest, DIRECTIONS, len(manifest.classes), store.dim + 1)
    novelty = manifest.calibration.novelty if manifest.calibration else None
    if directions is None and novelty and novelty.evidence and novelty.evidence.goes_by_rmds:
        raise refuse(MANIFEST, f"does not list {DIRECTIONS}")
    bundle = Bundle(folder, manifest, _engine(folder, manifest, threads, spare_core), store, entries, None, directions)
    if TAUGHT not in manifest.files:
        return bundle
    count = sum(map(len, bundle.taught.values()))
    return replace(bundle, taught_keys=_matrix(folder, manifest, TAUGHT, count, store.dim))


def _in_folder(folder: Path, manifest: Manifest, values: Ints, mapped: bool) -> FaissStore:
    refuse = partial(_refusal, manifest.generation)
    try:
        store = FaissStore.read(folder / KEYS, values, manifest.store.factory, manifest.store.search, mapped=mapped)
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
    return store


def _in_milvus(manifest: Manifest, values: Ints, milvus: Milvus | None, even_away: bool) -> MilvusStore:
    refuse, kept = partial(_refusal, manifest.generation), manifest.store
    if milvus is None:
        raise refuse(MANIFEST, "says that its keys are in Milvus: set SECONDLOOK_MILVUS__ADDRESS")
    if kept.collection is None or len(values) != kept.count:
        raise refuse(VALUES, f"has {len(values):,} labels, the manifest says {kept.count:,} in a collection")
    try:
        store = MilvusStore(milvus, kept.collection, values, kept.dim, kept.factory, kept.search)
        store.check()
    except StoreError as error:
        raise BundleError(f"bundle {manifest.generation} is refused: {error}") from error
    except StoreAwayError as error:
        if not even_away:
            raise
        store.lose(str(error))
    return store


def _refusal(generation: str, file: str, why: str) -> BundleError:
    return BundleError(f"bundle {generation} is refused: {file} {why}")


def _check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Hold files to the manifest: that it lists what a bundle needs, and their sizes and hashes."""
    refuse = partial(_refusal, manifest.generation)
    for name in (*REQUIRED, *([KEYS] if manifest.store.kind == "faiss" else [])):
        if name not in manifest.files:
            raise refuse(MANIFEST, f"does not list {name}")
    for name in names:
        path, info = folder / name, manifest.files[name]
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


def _engine(folder: Path, manifest: Manifest, threads: int, spare_core: bool = False) -> OnnxEngine:
    """The encoder on a processor, once it has answered two images."""
    refuse = partial(_refusal, manifest.generation)
    try:
        engine = OnnxEngine(folder / ENCODER, threads, spare_core=spare_core)
    except EngineError as error:
        raise refuse(ENCODER, f"cannot run: {error}") from error
    if (engine.size, engine.classes, engine.dim) != (
        (manifest.input.height, manifest.input.width),
        len(manifest.network_classes),
        manifest.store.dim,
    ):
        raise refuse(ENCODER, "has other inputs or outputs than the manifest says")
    canary = np.random.default_rng(0).integers(0, 256, (2, *engine.size, 3), dtype=np.uint8)
    logits, keys = engine.encode(canary)
    if not (np.isfinite(logits).all() and np.abs(np.linalg.norm(keys, axis=1) - 1).max() < UNIT_TOLERANCE):
        raise refuse(ENCODER, "gives no finite logits and unit keys for a test image")
    return engine


def _manifest(folder: Path, generation: str) -> Manifest:
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        version = content["schema_version"]
    except FileNotFoundError as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is not a manifest") from error
    if version not in READ_VERSIONS:
        raise BundleError(
            f"bundle {generation} is refused: {MANIFEST} has schema version {version}, "
            f"this secondlook reads {' and '.join(map(str, READ_VERSIONS))}"
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


def _matrix(folder: Path, manifest: Manifest, name: str, rows: int, columns: int) -> Floats | None:
    """A file of numbers; None where the bundle has none."""
    if name not in manifest.files:
        return None
    refuse = partial(_refusal, manifest.generation)
    try:
        numbers = np.load(folder / name, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise refuse(name, "is not an array") from error
    if numbers.shape != (rows, columns) or numbers.dtype != np.float32:
        raise refuse(name, f"is not of {rows:,} x {columns:,} float32 numbers")
    if not np.isfinite(numbers).all():
        raise refuse(name, "has a number that is not finite")
    return np.asarray(numbers, np.float32)


def _file_info(path: Path) -> FileInfo:
    return FileInfo(size=path.stat().st_size, sha256=file_sha256(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Bundles: one immutable folder with everything a server needs, verified before it is used.

The files are those of model.bundles.files; the folder that bundles lie in is a root (model.bundles.root).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from secondlook.model.bundles.engine_choice import DEFAULT, EngineChoice, OpenEngine, check_installed, choose_engine
from secondlook.model.bundles.entry_table import Entries, Entry
from secondlook.model.bundles.files import (
    DIRECTIONS,
    ENCODER,
    ENCODER_DATA,
    ENTRIES,
    FOLDED_KEYS,
    KEYS,
    NETWORK,
    VALUES,
    check_files,
    file_info,
    manifest_in,
    read_matrix,
    read_values,
    refusal,
    require_module,
)
from secondlook.model.bundles.kept_holdout import Calibrated
from secondlook.model.bundles.locks import Lease
from secondlook.model.bundles.root import active_generation, publish
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import BundleError, EngineError, StoreError, StoreUnreachableError
from secondlook.model.images import Geometry
from secondlook.model.journal import SOURCE, number_in
from secondlook.model.manifest import GENERATION, MANIFEST, Manifest
from secondlook.model.networks.engines import Engine
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.milvus_server import Milvus, from_environment
from secondlook.model.stores.milvus_store import MilvusStore
from secondlook.model.stores.store import Store

logger = logging.getLogger(__name__)

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
    folded_keys: Floats | None = None
    """(n,D) keys of its folded entries, in order of id; None where the store keeps keys as they are."""
    engine_why: str = ""
    """Why this engine runs the encoder; nothing to say of one on a GPU."""

    @property
    def geometry(self) -> Geometry:
        """How images are brought to its encoder."""
        return self.manifest.preprocess.geometry

    @cached_property
    def calibrated(self) -> Calibrated:
        """Its calibration, which changes as entries are added."""
        return Calibrated(self.manifest.calibration)

    @property
    def is_store_unreachable(self) -> bool:
        """Whether the keys are on another machine that does not answer now."""
        return isinstance(self.store, MilvusStore) and self.store.is_unreachable

    @cached_property
    def counts(self) -> Ints:
        """(C,) entries of each class."""
        return np.bincount(self.store.values, minlength=len(self.manifest.classes))

    @cached_property
    def folded(self) -> dict[int, list[Entry]]:
        """Its own entries of added images that were folded in, by the image's number."""
        found: dict[int, list[Entry]] = {}
        for entry in self.entries.beginning_with(SOURCE):
            if (number := number_in(entry.source)) is not None:
                found.setdefault(number, []).append(entry)
        return found

    @cached_property
    def exact_keys(self) -> dict[int, Floats]:
        """Keys (D,), by entry, that the store keeps in fewer bits."""
        if self.folded_keys is None:
            return {}
        ids = sorted(entry.id for own in self.folded.values() for entry in own)
        return dict(zip(ids, self.folded_keys, strict=True))


@dataclass(frozen=True)
class OpenEncoder:
    """The encoder of a bundle, without its store."""

    path: Path
    manifest: Manifest
    engine: Engine
    lease: Lease
    """Keeps the bundle from being pruned."""

    @property
    def geometry(self) -> Geometry:
        """How images are brought to it."""
        return self.manifest.preprocess.geometry


def commit(root: Path, folder: Path, manifest: Manifest, milvus: Milvus | None = None) -> Path:
    """Complete a draft: write its manifest, make it durable, verify it, and give it its name.

    Raises:
        BundleError: the draft does not verify; nothing is left behind under a generation's name.
    """
    files = {path.name: file_info(path) for path in sorted(folder.iterdir())}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n")
    verify(folder, manifest.generation, milvus=milvus)
    return publish(root, folder, manifest.generation)


def open_bundle(
    root: Path,
    generation: str | None = None,
    *,
    threads: int = 0,
    spare_core: bool = False,
    mapped: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    engine: EngineChoice = DEFAULT,
    milvus: Milvus | None = None,
    even_unreachable: bool = False,
    even_empty: bool = False,
) -> Bundle:
    """Verify a bundle (the active one by default) and load it, its encoder and keys on the device asked for.

    ``engine`` is the one on a processor, ``threads`` and ``spare_core`` are its own; ``mapped`` is the store's.
    ``precision`` is the network's on a GPU; auto = as the manifest says.
    ``milvus`` and ``even_unreachable`` are as for ``verify``. One without entries is wanted by those alone who say so
    (``even_empty``): there is nothing to measure in it.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it; or it has no entries.
        EngineError: there is no such device, or what it needs is not installed.
    """
    check_installed(engine)
    generation, lease = _leased(root, generation)
    bundle = verify(
        root / generation,
        generation,
        threads=threads,
        spare_core=spare_core,
        mapped=mapped,
        engine=engine if device == "cpu" else DEFAULT,
        milvus=milvus,
        even_unreachable=even_unreachable,
    )
    bundle = replace(bundle, lease=lease)
    if not bundle.store.count and not even_empty:
        raise BundleError(
            f"generation {generation} has no entries: teach images to a server of {root} and have it rebuild, or index "
            f"photos: secondlook index PHOTOS --bundles {root}"
        )
    if device == "cpu":
        return bundle
    bfloat16 = bundle.manifest.network.bfloat16 if precision == "auto" else precision == "bfloat16"
    bundle = replace(bundle, engine=_on_device(bundle.path, bundle.manifest, device, bfloat16), engine_why="")
    # Kept elsewhere; or every answer goes through all keys, a chunk at a time, where the vote is computed.
    if bundle.manifest.store.kind != "faiss" or bundle.manifest.k is None or not bundle.store.count:
        return bundle
    from secondlook.model.stores.torch_store import TorchStore

    try:
        return replace(bundle, store=TorchStore(bundle.store, device))
    except StoreError as error:  # too many
        logger.warning("%s: they are searched on the processor", error)
        return bundle


def open_encoder(root: Path, generation: str | None, *, device: Literal["cpu", "cuda"], threads: int) -> OpenEncoder:
    """Load a bundle's encoder alone (None = the active one's), its files verified; no key is read.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        EngineError: there is no such device, or what it needs is not installed.
    """
    generation, lease = _leased(root, generation)
    folder = root / generation
    manifest = manifest_in(folder, generation)
    check_files(folder, manifest, [name for name in (ENCODER, ENCODER_DATA, NETWORK) if name in manifest.files])
    engine = _engine(folder, manifest, threads).engine
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
    require_module(manifest, "a GPU runs (SECONDLOOK_DEVICE=cpu serves it without)")
    try:
        from secondlook.model.networks.encoder import Encoder
        from secondlook.model.networks.file import load_network
        from secondlook.model.networks.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        raise EngineError(f"running on {device} needs {error.name}: install secondlook with the gpu extra") from error
    file = load_network(folder / NETWORK)
    encoder = Encoder(file.network, manifest.recipe, file.projection)
    return TorchEngine(encoder, manifest.preprocess.geometry.size, device, bfloat16=bfloat16)


def verify(
    folder: Path,
    generation: str,
    *,
    threads: int = 0,
    spare_core: bool = False,
    mapped: bool = False,
    engine: EngineChoice = DEFAULT,
    milvus: Milvus | None = None,
    even_unreachable: bool = False,
) -> Bundle:
    """Check sizes and hashes of all files, then counts, finite keys, and that the encoder answers.

    ``milvus`` is the server that holds the keys, where they are in one; None = the one in the environment. With
    ``even_unreachable`` the bundle may be opened while that does not answer: its collection is checked when it does.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
    """
    manifest = manifest_in(folder, generation)
    refuse = partial(refusal, generation)
    check_files(folder, manifest, manifest.files)
    values = read_values(folder, manifest)
    store: Store
    if manifest.store.kind == "milvus":
        store = _in_milvus(manifest, values, milvus or from_environment(), even_unreachable)
    else:
        store = _in_folder(folder, manifest, values, mapped)
    entries = Entries(folder / ENTRIES)
    if entries.count != store.count:
        raise refuse(ENTRIES, f"has {entries.count:,} entries for {store.count:,} keys")
    directions = read_matrix(folder, manifest, DIRECTIONS, len(manifest.classes), store.dim + 1)
    novelty = manifest.calibration.novelty if manifest.calibration else None
    if directions is None and novelty and novelty.evidence and novelty.evidence.goes_by_rmds:
        raise refuse(MANIFEST, f"does not list {DIRECTIONS}")
    opened = _engine(folder, manifest, threads, spare_core, engine)
    bundle = Bundle(folder, manifest, opened.engine, store, entries, None, directions, engine_why=opened.why)
    if FOLDED_KEYS not in manifest.files:
        return bundle
    count = sum(map(len, bundle.folded.values()))
    return replace(bundle, folded_keys=read_matrix(folder, manifest, FOLDED_KEYS, count, store.dim))


def _in_folder(folder: Path, manifest: Manifest, values: Ints, mapped: bool) -> FaissStore:
    refuse = partial(refusal, manifest.generation)
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
    if not store.is_finite():
        raise refuse(KEYS, "has a key that is not finite")
    return store


def _in_milvus(manifest: Manifest, values: Ints, milvus: Milvus | None, even_unreachable: bool) -> MilvusStore:
    refuse, kept = partial(refusal, manifest.generation), manifest.store
    if milvus is None:
        raise refuse(MANIFEST, "says that its keys are in Milvus: set SECONDLOOK_MILVUS__ADDRESS")
    if kept.collection is None or len(values) != kept.count:
        raise refuse(VALUES, f"has {len(values):,} labels, the manifest says {kept.count:,} in a collection")
    try:
        store = MilvusStore(milvus, kept.collection, values, kept.dim, kept.factory, kept.search)
        store.check()
    except StoreError as error:
        raise BundleError(f"bundle {manifest.generation} is refused: {error}") from error
    except StoreUnreachableError as error:
        if not even_unreachable:
            raise
        store.lose(str(error))
    return store


def _engine(
    folder: Path, manifest: Manifest, threads: int, spare_core: bool = False, name: EngineChoice = DEFAULT
) -> OpenEngine:
    """The encoder on a processor, once it has answered two images."""
    refuse = partial(refusal, manifest.generation)
    try:
        opened = choose_engine(folder, manifest, name, threads, spare_core=spare_core)
    except EngineError as error:
        raise refuse(ENCODER, f"cannot run: {error}") from error
    engine = opened.engine
    if (engine.size, engine.classes, engine.dim) != (
        manifest.preprocess.geometry.size,
        len(manifest.network_classes),
        manifest.store.dim,
    ):
        raise refuse(ENCODER, "has other inputs or outputs than the manifest says")
    canary = np.random.default_rng(0).integers(0, 256, (2, *engine.size, 3), dtype=np.uint8)
    logits, keys = engine.encode(canary)
    if not (np.isfinite(logits).all() and np.abs(np.linalg.norm(keys, axis=1) - 1).max() < UNIT_TOLERANCE):
        raise refuse(ENCODER, "gives no finite logits and unit keys for a test image")
    return opened

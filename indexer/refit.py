"""A bundle's parameters or calibration made anew on its dataset's holdout; its keys stay as they are."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.calibrate import calibrate, similarities
from indexer.datasets import Dataset
from indexer.fit import Holdout, fit
from indexer.index import check_index_memory, embed_images
from indexer.novelty import NEIGHBORS, Seen, Tried, choose_novelty, fit_novelty
from indexer.progress import Progress, silent
from indexer.truncation import measure
from model import bundle as bundles
from model.bundle import Bundle
from model.cache import Floats, softmax
from model.doubt import energies
from model.errors import DatasetError
from model.manifest import Manifest, StoreInfo
from model.milvus_store import MilvusStore
from model.predictor import Parameters
from model.root import draft, new_generation
from model.stores import FaissStore, check_k


def refit(
    dataset: Dataset, root: Path, generation: str, ks: tuple[int | None, ...], progress: Progress = silent
) -> str:
    """Fit theta, lam and k of an existing bundle anew on its dataset's holdout; the new bundle's generation.

    Raises:
        DatasetError: the dataset is not the one that the bundle caches.
        ParameterError: a k is beyond what the store can serve.
        MemoryLimitError: it would not fit into memory.
    """
    old, store = _open(dataset, root, generation)
    for k in ks:
        check_k(k, is_exhaustive=store.is_exhaustive, kind=old.manifest.store.kind)
    holdout, held = _holdout(dataset, old, progress)
    classes = len(dataset.classes)
    fitted = fit(holdout, store, held, classes, ks=ks, progress=progress)
    chosen, novelty = Parameters(fitted.theta, fitted.lam, fitted.k), fitted.calibration.novelty
    store, truncation = measure(store, None, holdout, held, chosen, classes, novelty, progress)
    return _write_changed(
        root,
        old,
        progress,
        theta=fitted.theta,
        lam=fitted.lam,
        k=fitted.k,
        fit=fitted.report,
        calibration=calibrate(store, holdout, held, chosen, classes, novelty, progress),
        truncation=truncation,
        store=old.manifest.store.model_copy(update={"search": store.search_info}),
    )


def recalibrate(
    dataset: Dataset, root: Path, generation: str, unknown: Dataset | None = None, progress: Progress = silent
) -> tuple[str, list[Tried]]:
    """Calibrate an existing bundle anew on its dataset's holdout, all else as it is; the new bundle's generation.

    Where ``unknown`` is given, images of nothing that the bundle knows, novelty's weights are chosen on them, and all
    that was tried comes back too.

    Raises:
        DatasetError: the dataset is not the one that the bundle caches, or too many images are unreadable.
        MemoryLimitError: it would not fit into memory.
    """
    old, store = _open(dataset, root, generation)
    manifest = old.manifest
    holdout, held = _holdout(dataset, old, progress)
    most = min(max(NEIGHBORS), int((~held).sum()))
    known = Seen(similarities(store, holdout.keys, most, ~held), _energies(holdout.logits))
    tried: list[Tried] = []
    if unknown is None:
        novelty = fit_novelty(*known)
    else:
        logits, keys, _ = embed_images(unknown, np.arange(len(unknown.labels)), old.engine, progress)
        novelty, tried = choose_novelty(known, Seen(similarities(store, keys, most), _energies(logits)))
    chosen = Parameters(manifest.theta, manifest.lam, manifest.k)
    calibration = calibrate(store, holdout, held, chosen, len(dataset.classes), novelty, progress)
    return _write_changed(root, old, progress, calibration=calibration), tried


def _open(dataset: Dataset, root: Path, generation: str) -> tuple[Bundle, FaissStore | MilvusStore]:
    old = bundles.open_bundle(root, generation)
    assert isinstance(old.store, FaissStore | MilvusStore)
    if dataset.content_hash() != old.manifest.dataset.sha256:
        raise DatasetError(f"{dataset.name} ({dataset.split}) is not the dataset that generation {generation} caches")
    check_index_memory(old.store.count, old.store.dim, measured=True)
    return old, old.store


def _holdout(dataset: Dataset, old: Bundle, progress: Progress) -> tuple[Holdout, NDArray[np.bool_]]:
    """The holdout's images as queries, and which of the bundle's entries (N,) come from them."""
    logits, keys, labels = embed_images(dataset, dataset.holdout(), old.engine, progress)
    sources = {dataset.source(int(position)) for position in dataset.holdout()}
    return Holdout(logits, keys, labels), np.array([source in sources for source in old.entries.sources()])


def _energies(logits: Floats) -> Floats:
    return energies(logits, softmax(logits))


def _write_changed(root: Path, old: Bundle, progress: Progress, **changed: object) -> str:
    """A new bundle of the same files, with some of its manifest changed; its generation."""
    with draft(root) as folder, ExitStack() as undo:
        for name in old.manifest.files:
            shutil.copyfile(old.path / name, folder / name)
        manifest = old.manifest.model_copy(
            update={
                "generation": new_generation(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "secondlook_version": version("secondlook"),
                **changed,
            }
        )
        if isinstance(old.store, MilvusStore):
            manifest = manifest.model_copy(update={"store": _copied(old.store, manifest, undo, progress)})
        bundles.commit(root, folder, manifest)
        undo.pop_all()
    return manifest.generation


def _copied(store: MilvusStore, manifest: Manifest, undo: ExitStack, progress: Progress) -> StoreInfo:
    """A generation's own collection of the same keys: each generation has one, so that it can be dropped with it."""
    keys = np.concatenate([chunk for chunk, _ in store.chunks()])
    copied = store.copied(manifest.generation, keys, progress)
    undo.callback(copied.drop)
    return manifest.store.model_copy(update={"collection": copied.collection})

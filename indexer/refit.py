"""A bundle's parameters or calibration made anew; its keys stay as they are."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks, first_copies, kept_apart
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.looks import LOOKS, CachedLooks
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.encoders import read_trained
from secondlook.indexer.embedding.kept_features import KeptFeatures, keeping_of
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.fitting.cache import VotingEntries, fit_cache, keep_holdout, limits_of_same
from secondlook.indexer.fitting.calibrate import calibrate, fit_doubt
from secondlook.indexer.fitting.crossed import crossed_doubt, keep_crossed, nearest_others
from secondlook.indexer.fitting.honest_head import ask_head_again
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout, TrainedOn, choose_holdout
from secondlook.indexer.fitting.neighbors import nearest_entries, served_votes
from secondlook.indexer.fitting.novelty import TENTH
from secondlook.indexer.fitting.parameters import KS
from secondlook.indexer.fitting.unknown import unknown_kinds
from secondlook.indexer.index import IndexOptions, made_now, write_fitted
from secondlook.indexer.memory import check_index_memory
from secondlook.indexer.progress import Progress, silent
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.engines import INT8, INT8_DATA
from secondlook.model.bundles.files import DIRECTIONS
from secondlook.model.bundles.kept_holdout import HOLDOUT, KeptHoldout
from secondlook.model.bundles.root import draft, new_generation
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.errors import DatasetError
from secondlook.model.journal import Journal
from secondlook.model.manifest import Manifest, StoreInfo
from secondlook.model.stores.added_keys import number_of
from secondlook.model.stores.factory import check_k, keeps_keys
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.merged_store import MergedStore
from secondlook.model.stores.milvus_store import MilvusStore
from secondlook.model.stores.store import Store


@dataclass(frozen=True)
class _Opened:
    """A bundle with what was taught to it since, and what its parameters may be fitted on."""

    bundle: Bundle
    overlay: Overlay
    store: FaissStore | MilvusStore | MergedStore
    entries: VotingEntries
    chosen: ChosenHoldout
    looks: CachedLooks
    kept: KeptFeatures

    @property
    def classes(self) -> int:
        """How many it answers with."""
        return len(self.overlay.classes)

    @property
    def known(self) -> int:
        """How many of them count alike in the vote."""
        return self.bundle.manifest.equal_classes


def refit(
    dataset: Dataset | None,
    root: Path,
    generation: str,
    ks: tuple[int | None, ...] = KS,
    options: IndexOptions | None = None,
    progress: Progress = silent,
) -> str:
    """Fit theta, lam and k of an existing bundle anew, with what was taught to it since; the new bundle's generation.

    ``dataset`` is what it caches: its tenth is fitted on where ``options`` name no holdout. With one, and where all was
    taught, None will do.

    Raises:
        DatasetError: the dataset is not the one that the bundle caches, or the holdout cannot be fitted on.
        ParameterError: a k is beyond what the store can serve.
        MemoryLimitError: it would not fit into memory.
    """
    options = options or IndexOptions()
    opened = _open(dataset, root, generation, options, progress)
    old, store, kept = opened.bundle, opened.store, opened.kept
    for k in ks:
        check_k(k, old.manifest.store)
    fitted = fit_cache(
        store,
        opened.classes,
        opened.known,
        opened.entries,
        opened.chosen,
        ks=ks,
        unknown=lambda: unknown_kinds(old, options.unknown, progress, kept),
        own_classes=len(old.manifest.classes),
        progress=progress,
    )
    return _write_changed(
        root,
        old,
        progress,
        looks=replace(opened.looks, fitted=fitted.looks).fitted_on(_own(fitted.rows, opened.overlay)),
        holdout=fitted.kept_holdout and _by_id(fitted.kept_holdout, opened.overlay),
        directions=fitted.directions,
        changed=fitted.manifest_fields(opened.overlay.classes)
        | {
            "same_as": fitted.same_as or old.manifest.same_as,
            "network": old.manifest.network.model_copy(update={"trained_on_these": fitted.trained}),
            "store": old.manifest.store.model_copy(update={"search": fitted.store.search_info}),
            # What reduced precisions were held to are the answers under the parameters before.
            "engines": (),
        },
    )


def recalibrate(
    dataset: Dataset | None,
    root: Path,
    generation: str,
    options: IndexOptions | None = None,
    progress: Progress = silent,
) -> str:
    """Calibrate an existing bundle anew, all else as it is; the new bundle's generation.

    Raises:
        DatasetError: the dataset is not the one that the bundle caches, there is no honest holdout, or too many images
            are unreadable.
        MemoryLimitError: it would not fit into memory.
    """
    options = options or IndexOptions()
    opened = _open(dataset, root, generation, options, progress)
    manifest, store, holdout = opened.bundle.manifest, opened.store, opened.chosen.holdout
    out = opened.entries.held if holdout is not None and len(holdout.own) else None
    folds, pictures = opened.chosen.folds, opened.entries.pictures
    if holdout is None or (folds is None and out is not None and out.all()):
        raise DatasetError(
            f"nothing can be calibrated on {opened.chosen.info.name}: {opened.chosen.info.why}; give --holdout images "
            "that the network never saw"
        )
    served = ServedCache.of(store, opened.classes, opened.known, out if folds is None else None)
    parameters = Parameters(manifest.theta, manifest.lam, manifest.k)
    unknown = unknown_kinds(opened.bundle, options.unknown, progress, opened.kept)
    if folds is None:
        most = min(max(TENTH, manifest.k or 1), served.count)
        found = nearest_entries(served, holdout.keys, most, progress=progress)
        doubt = fit_doubt(served, holdout, found, unknown, len(manifest.classes))
        cache = served_votes(
            served, holdout, found, parameters, is_exhaustive=store.is_exhaustive, doubt=doubt, progress=progress
        )
        kept = keep_holdout(holdout, out)
    else:
        found = nearest_others(served, holdout, pictures, (manifest.k or served.count,), progress)
        doubt = crossed_doubt(served, holdout, folds, pictures, found, unknown, len(manifest.classes), progress)
        cache = served.vote(found.similarities[:, : manifest.k], found.values[:, : manifest.k], manifest.theta)
        kept = keep_crossed(holdout, doubt, pictures)
    network = softmax(holdout.logits, opened.classes)
    return _write_changed(
        root,
        opened.bundle,
        progress,
        looks=replace(opened.looks, fitted=Looks.joined([opened.looks.fitted or Looks.joined([]), holdout.looks])),
        holdout=_by_id(kept, opened.overlay),
        directions=doubt.directions,
        changed={
            "holdout": opened.chosen.info,
            "network": manifest.network.model_copy(update={"trained_on_these": opened.chosen.trained}),
            "calibration": calibrate(
                *(network, cache, holdout.labels, manifest.lam),
                *(doubt.novelty, doubt.scores, holdout.new_classes(opened.classes)),
            ),
            "same_as": limits_of_same(holdout.keys, found, opened.entries, served) or manifest.same_as,
        },
    )


def _open(dataset: Dataset | None, root: Path, generation: str, options: IndexOptions, progress: Progress) -> _Opened:
    old = bundles.open_bundle(root, generation)
    manifest = old.manifest
    assert isinstance(old.store, FaissStore | MilvusStore)
    if dataset is not None and dataset.content_hash() != manifest.dataset.sha256:
        raise DatasetError(f"{dataset.name} ({dataset.split}) is not the dataset that generation {generation} caches")
    # The store is in memory by now.
    check_index_memory(old.store.count, old.store.dim, None, len(manifest.classes), measured=True)
    overlay = replayed(Overlay(old), Journal(root))
    store = overlay.store
    assert isinstance(store, FaissStore | MilvusStore | MergedStore)
    sources = old.entries.sources()
    looks = CachedLooks.read(old.path / LOOKS)
    if looks is None or not len(looks.looks):
        looks = _looks_of(dataset, old, sources, progress)
    kept = keeping_of(root, old)
    tenth, held = _tenth(dataset, old, overlay, sources, looks, progress, kept)
    is_kept_whole = keeps_keys(manifest.store.factory)
    exact = None if dataset is None or is_kept_whole else _ExactKeys(dataset, overlay, sources)
    entries = VotingEntries(_pictures(looks, overlay), tenth, held, lambda rows: _rows(store, rows), exact)
    cached = f"{manifest.dataset.name} {manifest.dataset.split}"
    title = f"{dataset.name} {dataset.split}" if dataset is not None else manifest.dataset.name
    chosen = choose_holdout(
        f"a tenth of {title}",
        tenth,
        overlay.classes,
        looks.looks,
        TrainedOn.of(read_trained(old.path, manifest), manifest.network, cached, options.trained),
        old,
        named=options.holdout,
        progress=progress,
        kept=kept,
    )
    if manifest.linear is not None and options.holdout is None:
        title = f"{manifest.dataset.name} {manifest.dataset.split}"
        entries, chosen = ask_head_again(title, overlay, manifest.linear, entries, chosen, progress)
    if manifest.linear is not None:
        few = manifest.linear.few
        entries = replace(entries, tenth=replace(entries.tenth, few=few))
        chosen = replace(chosen, holdout=chosen.holdout and replace(chosen.holdout, few=few))
    return _Opened(old, overlay, store, entries, chosen, looks, kept)


@dataclass(frozen=True)
class _ExactKeys:
    """The keys of a bundle's entries as its encoder makes them, of which its store keeps fewer bits."""

    dataset: Dataset
    overlay: Overlay
    sources: list[str]
    """Of the bundle's own entries, by id."""

    def __call__(self, rows: Ints) -> Floats:
        """Those of some of the overlay's entries (n,): (n,D)."""
        bundle, ids = self.overlay.bundle, self.overlay.ids[rows].tolist()
        wanted = {self.sources[i] for i in ids if number_of(i) is None}
        everything = range(len(self.dataset.labels))
        at = {source: i for i in everything if (source := self.dataset.source(i)) in wanted}
        found = _rows(self.overlay.store, rows)
        for row, entry_id in enumerate(ids):
            entry = bundle.entries.get(entry_id) if number_of(entry_id) is None else None
            if entry is not None and entry.source in at:
                image = self.dataset.read(at[entry.source], bundle.geometry)
                image = image[:, ::-1] if entry.mirrored else image
                found[row] = bundle.engine.encode(np.ascontiguousarray(image)[None]).keys[0]
        return found


def _looks_of(dataset: Dataset | None, old: Bundle, sources: list[str], progress: Progress) -> CachedLooks:
    """The looks of an older bundle's images, read anew.

    Raises:
        DatasetError: the dataset is not at hand.
    """
    if dataset is None:
        raise DatasetError(
            f"generation {old.manifest.generation} does not say what its images look like: name the dataset that it "
            "caches too"
        )
    rows = {source: row for row, source in enumerate(dict.fromkeys(sources))}
    found = Looks.joined([Looks.of(np.zeros((1, *old.engine.size, 3), np.uint8))] * len(rows))
    everything = np.arange(len(dataset.labels))
    for indices, images in batches(dataset, everything, old.geometry, 256):
        at = np.array([rows.get(dataset.source(index), -1) for index in indices.tolist()])
        some, places = Looks.of(images)[at >= 0], at[at >= 0]
        found.digests[places], found.luma[places], found.colours[places] = some.digests, some.luma, some.colours
        progress("looks", int(indices[-1]) + 1, len(everything))
    return CachedLooks(found, np.array([rows[source] for source in sources]), None)


def _pictures(looks: CachedLooks, overlay: Overlay) -> Ints:
    """What each of an overlay's entries shows (N,), as numbers."""
    own = first_copies(looks.looks)[looks.rows]
    taught = len(looks.looks)
    return np.array(
        [own[i] if (number := number_of(i)) is None else taught + number for i in overlay.ids.tolist()], np.int64
    )


def _tenth(
    dataset: Dataset | None,
    old: Bundle,
    overlay: Overlay,
    sources: list[str],
    looks: CachedLooks,
    progress: Progress,
    kept: KeptFeatures,
) -> tuple[EmbeddedQueries, NDArray[np.bool_]]:
    """The dataset's tenth as queries, less what was removed since, and which entries (N,) may not answer for them."""
    ids, count = overlay.ids, len(overlay.ids)
    empty = EmbeddedQueries(
        np.empty((0, old.engine.classes), np.float32), np.empty((0, old.engine.dim), np.float32), np.empty(0, np.int64)
    )
    if dataset is None or not len(dataset.holdout()):
        return empty, np.zeros(count, bool)
    row_of = {entry: row for row, entry in enumerate(ids.tolist())}
    first: dict[str, int] = {}
    for entry, source in enumerate(sources):
        if source not in first and entry in row_of:
            first[source] = row_of[entry]
    found = embed_queries(dataset, dataset.holdout(), old, progress, kept=kept)
    own = np.array([first.get(dataset.source(int(position)), -1) for position in found.positions])
    found, own = found.part(own >= 0), own[own >= 0]
    tenth = replace(found, labels=overlay.store.values[own], own=own)
    # Of the bundle's own entries: what was taught since shows other pictures.
    is_own = np.array([number_of(entry) is None for entry in ids.tolist()], bool)
    rows = looks.rows[ids[is_own]]
    held, shown = np.zeros(len(looks.looks), bool), np.full(len(looks.looks), -1, np.int64)
    held[looks.rows[ids[own]]] = True
    shown[rows] = overlay.store.values[is_own]
    apart = np.zeros(count, bool)
    apart[is_own] = kept_apart(held, looks.looks, shown)[rows]
    return tenth, apart


def _rows(store: Store, rows: Ints) -> Floats:
    """The keys (n,D) of some entries, as the store decodes them; rows are sorted."""
    found, start = [], 0
    for keys, _ in store.chunks():
        some = rows[(rows >= start) & (rows < start + len(keys))] - start
        found.append(keys[some])
        start += len(keys)
    return np.concatenate(found)


def _own(rows: Ints | None, overlay: Overlay) -> Ints | None:
    """The bundle's own of some entries, by their ids, in place of rows."""
    ids = overlay.ids if rows is None else overlay.ids[rows]
    return None if rows is None else ids[ids < len(overlay.bundle.store.values)]


def _by_id(holdout: KeptHoldout, overlay: Overlay) -> KeptHoldout:
    """The same with entries by their ids, in place of their rows."""
    ids = overlay.ids

    def by_id(rows: Ints) -> Ints:
        return np.where(rows >= 0, ids[np.maximum(rows, 0)], -1)

    same = None if holdout.same is None else by_id(holdout.same)
    return replace(holdout, own=by_id(holdout.own), out=ids[holdout.out], same=same)


def _write_changed(
    root: Path,
    old: Bundle,
    progress: Progress,
    *,
    looks: CachedLooks,
    holdout: KeptHoldout | None,
    directions: Floats | None,
    changed: dict[str, object],
) -> str:
    """A new bundle of the same files, with some of its manifest changed; its generation."""
    with draft(root) as folder, ExitStack() as undo:
        left_out = {LOOKS, HOLDOUT, DIRECTIONS} | ({INT8, INT8_DATA} if "engines" in changed else set())
        for name in old.manifest.files.keys() - left_out:
            shutil.copyfile(old.path / name, folder / name)
        write_fitted(folder, looks, holdout, directions)
        manifest = old.manifest.model_copy(update={"generation": new_generation(), **made_now(), **changed})
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

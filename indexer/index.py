"""From a dataset to a verified bundle, step by step: ``index`` reads from top to bottom.

A shard (``sharding.shards``) does the step that embeds, of some of the images; a merge (``sharding.merge``) takes all
steps, and collects what the shards embedded in the place of embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import ordered
from secondlook.indexer.datasets.fold import FoldedDataset
from secondlook.indexer.datasets.looks import LOOKS, CachedLooks
from secondlook.indexer.embedding.encoders import PROVEN, EncoderSource, PreparedEncoder
from secondlook.indexer.embedding.entries import EmbeddedEntries, embed_entries
from secondlook.indexer.embedding.kept_features import Counts, KeptFeatures, keeping
from secondlook.indexer.embedding.linear_heads import why_no_linear_head
from secondlook.indexer.engines import with_engines
from secondlook.indexer.fitting.cache import FittedCache, fit_cache
from secondlook.indexer.fitting.honest_head import fit_honest_head
from secondlook.indexer.fitting.honest_holdout import TrainedOn, choose_holdout
from secondlook.indexer.fitting.linear_head import LinearOpinion
from secondlook.indexer.fitting.parameters import KS, USUAL_THETA
from secondlook.indexer.fitting.unknown import unknown_kinds
from secondlook.indexer.memory import check_index_memory
from secondlook.indexer.new_entries import NewEntries
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.store_builder import StoreBuilder, choose_builder
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.entry_table import thumbnail_size, write_entries
from secondlook.model.bundles.files import DIRECTIONS, ENCODER, ENTRIES, FOLDED_KEYS, VALUES
from secondlook.model.bundles.kept_holdout import HOLDOUT, KeptHoldout
from secondlook.model.bundles.root import draft, forget_features, new_generation
from secondlook.model.cache import Floats, check_lam, check_parameters
from secondlook.model.manifest import Manifest, StoreInfo, Trained
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.factory import keeps_keys
from secondlook.model.stores.milvus_server import Milvus, from_environment
from secondlook.model.stores.store import TunableStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexOptions:
    """What decides an index."""

    store: str = "auto"
    """A FAISS factory string, or ``milvus`` with or without one of its own after a colon.

    auto = chosen by the number and size of the keys; in Milvus, where a server of that is set.
    """
    mirror: bool = False
    """Cache each image's mirrored copy too, as the paper does."""
    parameters: Parameters | None = None
    """Use these; None = fit them on the holdout."""
    thumbnails: bool = True
    engines: bool = True
    """Whether engines of reduced precision are held to float32, as for a bundle that a server answers with."""
    holdout: Dataset | None = None
    """Images that the network never saw, to fit on; None = the dataset's tenth, where the network is new to it."""
    unknown: Sequence[Dataset] = ()
    """Images of nothing that is cached, to choose novelty on besides others."""
    trained: Trained = "unknown"
    """What the network's user says of its having been trained on the dataset."""


Gather = Callable[[Dataset, PreparedEncoder, KeptFeatures, Progress], EmbeddedEntries]
"""Gives the entries of a dataset: embeds them, or collects what was embedded elsewhere; notes what was left out."""

UNTIL_FITTED = Parameters(USUAL_THETA, 1.0, max(k for k in KS if k is not None))
"""What a cache answers with that has nothing, or too little, to fit them on."""

EXPECTED_SHARE = 0.99
"""Of the images that look like some, so many can be read where nothing is amiss: the store is planned for these."""


def index(
    dataset: Dataset,
    root: Path,
    source: EncoderSource,
    options: IndexOptions,
    progress: Progress = silent,
    gather: Gather | None = None,
    milvus: Milvus | None = None,
    counts: Counts | None = None,
) -> str:
    """Embed a dataset into a new bundle below root, or take what ``gather`` gives; its generation.

    What was embedded for a bundle of this root before is not embedded again (``embedding.kept_features``); ``counts``
    says how many images that were. CURRENT is not touched. ``milvus`` is the server that may hold the keys; None = the
    one in the environment.

    Raises:
        DatasetError: a class has no image that can be read, most images cannot be, or there is no holdout to fit on.
        RecipeError, StoreError, StoreUnreachableError, EngineError, BundleError, ParameterError, MemoryLimitError: as
            their names say; then nothing is written.
    """
    if options.parameters:
        check_parameters(*options.parameters)
    with draft(root) as folder, ExitStack() as undo, ExitStack() as open_files:
        encoder = source.prepare(dataset, folder, progress)
        dataset = ordered(dataset, encoder.classes)
        if options.parameters:
            check_lam(options.parameters.lam, has_head=encoder.engine.classes > 0 or encoder.wants_linear)
        builder = plan_store(dataset, encoder, options, milvus)
        undo.callback(builder.discard)
        kept = open_files.enter_context(keeping(root, encoder, counts))
        kept.counts.ahead |= encoder.ahead
        embedded = (gather or _embedding(options, root))(dataset, encoder, kept, progress)
        entries = NewEntries.of(dataset, embedded)
        if options.parameters is None and options.holdout is None:
            if encoder.wants_linear and (why := why_no_linear_head(entries.picture_labels)) is not None:
                log.warning("%s, and copies are one: the cache answers alone", why)
                encoder = replace(encoder, wants_linear=False)
            if dataset.own_classes or encoder.wants_linear:
                entries.require_two_pictures()
            else:  # of so little that was taught, nothing can be told
                options = replace(options, parameters=UNTIL_FITTED)
        generation = new_generation()
        store = builder.build(generation, embedded.keys, entries.values, progress)
        fitted, linear = fit_entries(store, entries, encoder, builder, options, progress, kept)
        if linear is not None:
            encoder = with_linear_head(folder, entries, encoder, linear)
        stored = write_files(folder, entries, encoder, builder, fitted)
        manifest = describe(generation, entries, encoder, stored, fitted, options, linear)
        if options.engines:
            manifest = with_engines(manifest, folder, entries, fitted.store, options.holdout, progress)
        progress("verify", 0, 1)
        # Verifying reads the bundle back: at 4.9 GB of keys there is no room for these copies beside it.
        del embedded, entries, store, fitted
        bundles.commit(root, folder, manifest, milvus)
        undo.pop_all()
        progress("verify", 1, 1)
    forget_features(root, encoder.tried - {encoder.features})
    return generation


def plan_store(
    dataset: Dataset, encoder: PreparedEncoder, options: IndexOptions, milvus: Milvus | None
) -> StoreBuilder:
    """Choose the store, and refuse what cannot be before the long work, not after it.

    Raises:
        StoreError, StoreUnreachableError, ParameterError: as ``choose_builder``.
        MemoryLimitError: the index would not fit into memory.
    """
    copies, count = 2 if options.mirror else 1, len(dataset.labels)
    builder = choose_builder(
        options.store,
        milvus or from_environment(),
        copies * count,
        encoder.engine.dim,
        copies * max(1, int(count * EXPECTED_SHARE)),
        options.parameters.k if options.parameters else None,
        is_k_given=options.parameters is not None,
    )
    measured = not _is_exact(options, builder)
    check_index_memory(
        copies * count,
        encoder.engine.dim,
        builder.info.factory if builder.info.kind == "faiss" else None,
        len(dataset.classes),
        linear=encoder.wants_linear,
        measured=measured,
    )
    return builder


def fit_entries(
    store: TunableStore,
    entries: NewEntries,
    encoder: PreparedEncoder,
    builder: StoreBuilder,
    options: IndexOptions,
    progress: Progress,
    kept: KeptFeatures | None = None,
) -> tuple[FittedCache[TunableStore], LinearOpinion | None]:
    """Choose the holdout, and fit on it what was not given; and a linear head, where one is wanted.

    Raises:
        DatasetError: what was named cannot be fitted on, or there are too few images.
    """
    dataset, engine = entries.dataset, encoder.engine
    voting = entries.voting(is_kept_whole=keeps_keys(builder.info.factory))
    title = f"{dataset.name} {dataset.split}"
    chosen = choose_holdout(
        f"a tenth of {title}",
        voting.tenth,
        dataset.classes,
        entries.embedded.looks,
        TrainedOn.of(encoder.trained, encoder.network, title, options.trained),
        encoder,
        named=options.holdout,
        earlier=encoder.holdout,
        progress=progress,
        kept=kept,
    )
    linear: LinearOpinion | None = None
    if encoder.wants_linear:
        linear, voting, chosen = fit_honest_head(
            *(title, entries.embedded.keys, entries.values, len(dataset.classes), voting, chosen),
            is_exhaustive=store.is_exhaustive,
            known=len(dataset.own_classes),
            progress=progress,
        )

    def unknown() -> dict[str, Encoding]:
        kinds = unknown_kinds(encoder, options.unknown, progress, kept)
        return kinds if linear is None else {name: linear.head.said(seen) for name, seen in kinds.items()}

    fitted = fit_cache(
        store,
        len(dataset.classes),
        engine.classes or len(dataset.own_classes),
        voting,
        chosen,
        parameters=options.parameters,
        is_exact=_is_exact(options, builder),
        unknown=unknown,
        progress=progress,
    )
    return fitted, linear


def with_linear_head(
    folder: Path, entries: NewEntries, encoder: PreparedEncoder, linear: LinearOpinion
) -> PreparedEncoder:
    """The encoder in a draft with a head of its own, proven on some of the images.

    Raises:
        EngineError: it does not say what the keys and the head say.
    """
    from secondlook.model.networks.linear_graph import prove_linear_head, set_linear_head

    engine = set_linear_head(folder / ENCODER, *linear.head)
    some = np.flatnonzero(~entries.embedded.mirrored)[:PROVEN]
    positions = entries.embedded.positions[some].tolist()
    images = np.stack([entries.dataset.read(position, encoder.geometry) for position in positions])
    prove_linear_head(engine, images, entries.embedded.keys[some], linear.head)
    return replace(encoder, engine=engine)


def write_files(
    folder: Path,
    entries: NewEntries,
    encoder: PreparedEncoder,
    builder: StoreBuilder,
    fitted: FittedCache[TunableStore],
) -> StoreInfo:
    """Write all of a bundle's files but the encoder's, which are there; what the manifest says of the store."""
    stored = builder.write(fitted.store, folder)
    np.save(folder / VALUES, entries.values.astype(np.int32), allow_pickle=False)
    height, _ = thumbnail_size(*encoder.engine.size)
    write_entries(folder / ENTRIES, entries.table(), entries.embedded.sheets, height)
    looks = CachedLooks(entries.embedded.looks, entries.looks_rows, fitted.looks).fitted_on(fitted.rows)
    write_fitted(folder, looks, fitted.kept_holdout, fitted.directions)
    if not keeps_keys(builder.info.factory) and len(taught := entries.taught):
        np.save(folder / FOLDED_KEYS, entries.embedded.keys[taught], allow_pickle=False)
    return stored


def write_fitted(folder: Path, looks: CachedLooks, holdout: KeptHoldout | None, directions: Floats | None) -> None:
    """Write what a bundle keeps of what it was fitted on."""
    looks.write(folder / LOOKS)
    if holdout is not None:
        holdout.write(folder / HOLDOUT)
    if directions is not None:
        np.save(folder / DIRECTIONS, directions, allow_pickle=False)


def describe(
    generation: str,
    entries: NewEntries,
    encoder: PreparedEncoder,
    stored: StoreInfo,
    fitted: FittedCache[TunableStore],
    options: IndexOptions,
    linear: LinearOpinion | None = None,
) -> Manifest:
    """The manifest, all but the hashes of the files."""
    dataset, engine = entries.dataset, encoder.engine
    knows_all = engine.classes == len(dataset.classes) > 0
    known = None if knows_all else engine.classes
    network = encoder.network.model_copy(update={"classes": known, "trained_on_these": fitted.trained})
    return Manifest(
        generation=generation,
        **made_now(),
        dataset=entries.info(mirrored=options.mirror),
        classes=dataset.classes,
        network=network,
        head="linear" if linear is not None else "network" if engine.classes else "none",
        linear=None if linear is None else linear.info,
        recipe=encoder.recipe,
        preprocess=encoder.preprocess,
        proof=encoder.proof,
        store=stored,
        **fitted.manifest_fields(dataset.classes),
        features=encoder.features,
        folded_change=dataset.change if isinstance(dataset, FoldedDataset) else None,
    )


def made_now() -> dict[str, str]:
    """When and by what a manifest is made, as it says that."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "secondlook_version": version("secondlook"),
    }


def _embedding(options: IndexOptions, root: Path) -> Gather:
    """Embeds all images here and now; what is made of them lies on the root's disk."""

    def gather(dataset: Dataset, encoder: PreparedEncoder, kept: KeptFeatures, progress: Progress) -> EmbeddedEntries:
        return embed_entries(
            dataset,
            np.arange(len(dataset.labels)),
            encoder,
            progress,
            mirror=options.mirror,
            thumbnails=options.thumbnails,
            kept=kept,
            folder=root,
        )

    return gather


def _is_exact(options: IndexOptions, builder: StoreBuilder) -> bool:
    """Whether a search for the parameters that are given leaves nothing out, so that nothing is to be measured."""
    return options.parameters is not None and options.parameters.k is None and builder.info.factory == "Flat"

"""From a dataset to a verified bundle: decode, embed, fit, store, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks, Repeats, first_copies, kept_apart
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.fold import FoldedDataset
from secondlook.indexer.datasets.folders import FolderDataset, why_empty
from secondlook.indexer.datasets.looks import LOOKS, CachedLooks, GivenHoldout
from secondlook.indexer.embedding.encoders import EncoderSource, PreparedEncoder
from secondlook.indexer.embedding.entries import EmbeddedEntries, embed_entries
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.fitting.cache import Entries, fit_cache
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout, TrainedOn, given_holdout, tenth_as_holdout
from secondlook.indexer.fitting.neighbors import KEYS_AT_ONCE, QUERIES_AT_ONCE
from secondlook.indexer.fitting.unknown import unknown_kinds
from secondlook.indexer.memory import check_memory
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.store_builder import choose_builder
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.entry_table import Entry, write_entries
from secondlook.model.bundles.files import DIRECTIONS, ENTRIES, FOLDED_KEYS, VALUES
from secondlook.model.bundles.kept_holdout import HOLDOUT
from secondlook.model.bundles.root import draft, new_generation
from secondlook.model.cache import Floats, check_parameters
from secondlook.model.errors import DatasetError
from secondlook.model.images import RESIZE
from secondlook.model.journal import number_in
from secondlook.model.manifest import DatasetInfo, InputInfo, Manifest, Trained
from secondlook.model.networks.engines import Engine
from secondlook.model.stores.factory import keeps_keys
from secondlook.model.stores.milvus_server import Milvus, from_environment
from secondlook.model.stores.store import parts

PAIRS_NAMED = 100
"""Pairs of images, one picture in two classes, that the manifest names."""

ENTRIES_AT_ONCE = 65_536
"""Entries on their way to the table, as Python's own numbers."""


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
    holdout: Dataset | None = None
    """Images that the network never saw, to fit on; None = the dataset's tenth, where the network is new to it."""
    unknown: Sequence[Dataset] = ()
    """Images of nothing that is cached, to choose novelty on besides others."""
    trained: Trained = "unknown"
    """What the network's user says of its having been trained on the dataset."""


Gather = Callable[[Dataset, PreparedEncoder, Progress], EmbeddedEntries]
"""Gives the entries of a dataset: embeds them, or collects what was embedded elsewhere; notes what was left out."""

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
) -> str:
    """Embed a dataset into a new bundle below root, or take what ``gather`` gives; its generation.

    CURRENT is not touched. ``milvus`` is the server that may hold the keys; None = the one in the environment.

    Raises:
        DatasetError: a class has no image that can be read, most images cannot be, or there is no holdout to fit on.
        RecipeError, StoreError, StoreUnreachableError, EngineError, BundleError, ParameterError, MemoryLimitError: as
            their names say; then nothing is written.
    """
    if options.parameters:
        check_parameters(*options.parameters)
    with draft(root) as folder, ExitStack() as undo:
        encoder = source.prepare(dataset, folder, progress)
        copies, count = 2 if options.mirror else 1, len(dataset.labels)
        fewest = max(1, int(count * EXPECTED_SHARE))
        # Refuse what cannot be before the long work, not after it.
        builder = choose_builder(
            options.store,
            milvus or from_environment(),
            copies * count,
            encoder.engine.dim,
            copies * fewest,
            options.parameters.k if options.parameters else None,
            is_k_given=options.parameters is not None,
        )
        undo.callback(builder.discard)
        exact = options.parameters is not None and options.parameters.k is None and builder.info.factory == "Flat"
        check_index_memory(copies * len(dataset.labels), encoder.engine.dim, measured=not exact)
        embedded = (gather or _embedding(options))(dataset, encoder, progress)
        unreadable = _check_readable(dataset, embedded)
        if isinstance(dataset, FoldedDataset):
            dataset = dataset.less_emptied(dataset.labels[embedded.positions])
        first = first_copies(embedded.looks)
        repeated = _repeated(dataset, embedded, first)
        values, images = dataset.labels[embedded.positions], len(np.unique(embedded.positions))
        generation = new_generation()
        store = builder.build(generation, embedded.keys, values, progress)
        entries = entries_to_fit(dataset, embedded, values, first, is_exact=keeps_keys(builder.info.factory))
        chosen = choose_holdout(
            dataset.name,
            dataset.split,
            dataset.classes,
            encoder.engine,
            embedded.looks,
            entries.tenth,
            _known(encoder, dataset, options),
            options.holdout,
            progress,
            encoder.kept,
        )
        fitted = fit_cache(
            store,
            len(dataset.classes),
            min(encoder.engine.classes, len(dataset.classes)),
            entries,
            chosen,
            parameters=options.parameters,
            is_exact=exact,
            unknown=lambda: unknown_kinds(encoder.engine, options.unknown, progress),
            progress=progress,
        )
        store = fitted.store
        store_info = builder.write(store, folder)
        np.save(folder / VALUES, values.astype(np.int32), allow_pickle=False)
        write_entries(
            folder / ENTRIES,
            _entries(dataset, embedded, values),
            embedded.sheets,
            height=encoder.engine.size[0],
        )
        looks = CachedLooks(embedded.looks, _rows_of_looks(embedded), fitted.fitted)
        looks.fitted_on(fitted.rows).write(folder / LOOKS)
        if fitted.held is not None:
            fitted.held.write(folder / HOLDOUT)
        if fitted.directions is not None:
            np.save(folder / DIRECTIONS, fitted.directions, allow_pickle=False)
        if not keeps_keys(builder.info.factory) and len(taught := _taught(dataset, embedded)):
            np.save(folder / FOLDED_KEYS, embedded.keys[taught], allow_pickle=False)
        # Verifying reads the bundle back: at 4.9 GB of keys there is no room for these copies beside it.
        del store, embedded, entries
        progress("verify", 0, 1)
        manifest = Manifest(
            generation=generation,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            secondlook_version=version("secondlook"),
            dataset=DatasetInfo(
                name=dataset.name,
                split=dataset.split,
                images=images,
                mirrored=options.mirror,
                unreadable=unreadable,
                left_out=dataset.left_out.counts(),
                **repeated,
                sha256=dataset.content_hash(),
            ),
            classes=dataset.classes,
            network=encoder.network.model_copy(
                update={"classes": _known_classes(encoder.engine, dataset), "trained_on_these": fitted.trained}
            ),
            recipe=encoder.recipe,
            input=InputInfo(height=encoder.engine.size[0], width=encoder.engine.size[1], resize=RESIZE),
            store=store_info,
            theta=fitted.parameters.theta,
            lam=fitted.parameters.lam,
            k=fitted.parameters.k,
            parameters_from=fitted.source,
            holdout=fitted.holdout,
            fit=fitted.report,
            calibration=fitted.calibration,
            same_as=fitted.same_as,
            approximation_error=fitted.approximation_error,
            folded_change=dataset.change if isinstance(dataset, FoldedDataset) else None,
        )
        bundles.commit(root, folder, manifest, milvus)
        undo.pop_all()
        progress("verify", 1, 1)
    return generation


def memory_needed(entries: int, dim: int, *, measured: bool = True) -> int:
    """Bytes of memory that an index needs at its widest, were its store to keep the keys as they are."""
    # The keys as embedded and the store's own; where anything is measured on the holdout, the similarities (float32)
    # and order (int64) of some entries for some queries at a time.
    at_once = 12 * QUERIES_AT_ONCE * min(entries, KEYS_AT_ONCE)
    return 4 * entries * dim * 2 + (at_once if measured else 0)


def check_index_memory(entries: int, dim: int, *, measured: bool) -> None:
    """Refuse an index that would not fit into memory.

    Raises:
        MemoryLimitError: it would not.
    """
    check_memory(
        memory_needed(entries, dim, measured=measured),
        f"a cache of {entries:,} entries of {dim:,} numbers",
        "take a recipe that reduces its keys, or fewer images",
    )


def choose_holdout(
    name: str,
    split: str,
    classes: tuple[str, ...],
    engine: Engine,
    cached: Looks,
    tenth: EmbeddedQueries,
    known: TrainedOn,
    named: Dataset | None,
    progress: Progress = silent,
    kept: GivenHoldout | None = None,
) -> ChosenHoldout:
    """The images that parameters of a cache of a split of a dataset are fitted on.

    Those that are named, those that the bundle before was given, or the dataset's tenth.

    Raises:
        DatasetError: those that were named cannot be fitted on.
    """
    if named is None and kept is not None:
        names = tuple(label for label in kept.classes if label in classes)
        left = np.isin(kept.held.labels, [kept.classes.index(label) for label in names])
        now = np.array([names.index(label) if label in names else -1 for label in kept.classes])
        seen = EmbeddedQueries(kept.held.logits, kept.held.keys, now[kept.held.labels], kept.looks).part(left)
        # Where they are cached by now, others are looked for.
        with suppress(DatasetError):
            return given_holdout(kept.info.name, seen, names, classes, cached, known)
    if named is None:
        return tenth_as_holdout(f"a tenth of {name} {split}".rstrip(), tenth, cached, known)
    seen = embed_queries(named, np.arange(len(named.labels)), engine, progress)
    return given_holdout(f"{named.name} {named.split}", seen, named.classes, classes, cached, known)


def _embedding(options: IndexOptions) -> Gather:
    """Embeds all images here and now."""

    def gather(dataset: Dataset, encoder: PreparedEncoder, progress: Progress) -> EmbeddedEntries:
        everything = np.arange(len(dataset.labels))
        copies = {"mirror": options.mirror, "thumbnails": options.thumbnails}
        return embed_entries(dataset, everything, encoder, progress, **copies)

    return gather


def _check_readable(dataset: Dataset, embedded: EmbeddedEntries) -> tuple[str, ...]:
    """The sources of the images that gave no entries, but for taught ones that were removed while it was built.

    Raises:
        DatasetError: they are all images of a class, or most of all: then something is amiss that is not theirs.
    """
    there, left = np.zeros(len(dataset.labels), bool), np.ones(len(dataset.labels), bool)
    there[embedded.positions] = True
    if isinstance(dataset, FoldedDataset):
        left[dataset.removed()] = False
    have = np.isin(np.arange(len(dataset.classes)), dataset.labels[there])
    # Classes of which people removed every image are no surprise.
    folder = dataset.base if isinstance(dataset, FoldedDataset) else dataset
    lost = [
        label
        for label in np.flatnonzero(~have).tolist()
        if (dataset.labels[left] == label).any() or (isinstance(folder, FolderDataset) and _is_empty(folder, label))
    ]
    if lost:
        own = [label for label in lost if label < len(folder.classes)]
        if isinstance(folder, FolderDataset) and own:
            raise DatasetError(why_empty(folder, own))
        raise DatasetError(
            f"{dataset.name} has no readable images of {', '.join(dataset.classes[label] for label in lost[:5])}"
        )
    if 2 * there.sum() < left.sum():
        raise DatasetError(f"most images of {dataset.name} cannot be read: {dataset.left_out.said()}")
    return tuple(dataset.source(position) for position in np.flatnonzero(left & ~there).tolist())


def _is_empty(folder: FolderDataset, label: int) -> bool:
    return label < len(folder.classes) and not (folder.labels == label).any()


def _entries(dataset: Dataset, embedded: EmbeddedEntries, values: NDArray[np.int64]) -> Iterator[Entry]:
    columns = (embedded.positions, values, embedded.mirrored, embedded.sheet, embedded.place)
    for start in range(0, len(values), ENTRIES_AT_ONCE):
        rows = zip(*(column[start : start + ENTRIES_AT_ONCE].tolist() for column in columns), strict=True)
        for i, (position, value, mirrored, sheet, place) in enumerate(rows, start):
            yield Entry(i, dataset.source(position), value, mirrored, sheet if sheet >= 0 else None, place)


def entries_to_fit(
    dataset: Dataset, embedded: EmbeddedEntries, values: NDArray[np.int64], first: NDArray[np.int64], *, is_exact: bool
) -> Entries:
    """The entries, the dataset's tenth as queries, and copies of pictures found by their looks."""
    rows, originals = _rows_of_looks(embedded), ~embedded.mirrored
    in_tenth = np.isin(embedded.positions, dataset.holdout())
    own = np.flatnonzero(in_tenth & originals)
    apart = kept_apart(in_tenth[originals], embedded.looks, values[originals])
    return Entries(
        first[rows],
        EmbeddedQueries(embedded.logits, embedded.keys[own], values[own], embedded.looks[rows[own]], own),
        apart[rows],
        lambda rows: embedded.keys[rows],
        None if is_exact else lambda rows: embedded.keys[rows],
        _Chunks(embedded.keys, values),
    )


def _repeated(dataset: Dataset, embedded: EmbeddedEntries, first: NDArray[np.int64]) -> dict[str, Any]:
    """What the manifest says of copies."""
    positions = embedded.positions[~embedded.mirrored]
    found = Repeats.of(first, dataset.labels[positions])
    sources = [tuple(dataset.source(int(positions[row])) for row in pair) for pair in found.across[:PAIRS_NAMED]]
    return {"duplicates": found.images, "in_two_classes": sources, "in_two_classes_count": len(found.across)}


def _taught(dataset: Dataset, embedded: EmbeddedEntries) -> NDArray[np.int64]:
    """Which entries are of images that were taught."""
    is_taught = [number_in(dataset.source(position)) is not None for position in embedded.positions.tolist()]
    return np.flatnonzero(is_taught)


def _rows_of_looks(embedded: EmbeddedEntries) -> NDArray[np.int64]:
    """Where among the looks each entry's image is (N,): an image's own and its mirrored entry share one."""
    originals = embedded.positions[~embedded.mirrored]
    order = np.argsort(originals)
    return order[np.searchsorted(originals[order], embedded.positions)]


def _known(encoder: PreparedEncoder, dataset: Dataset, options: IndexOptions) -> TrainedOn:
    """What is known of the images that the network was trained on."""
    words = f"{dataset.name} {dataset.split} less holdout"
    said = options.trained if options.trained != "unknown" else encoder.network.trained_on_these
    return TrainedOn(encoder.trained, encoder.trained is None and encoder.network.trained_on == words, said)


def _known_classes(engine: Engine, dataset: Dataset) -> int | None:
    """How many of the dataset's classes the network knows; None = all."""
    return engine.classes if engine.classes < len(dataset.classes) else None


@dataclass(frozen=True)
class _Chunks:
    """Chunks of the keys as embedded."""

    keys: Floats
    values: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        for part in parts(*self.keys.shape):
            yield self.keys[part], self.values[part]

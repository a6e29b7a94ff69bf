"""From a dataset to a verified bundle: decode, embed, fit, store, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.calibrate import calibrate
from indexer.copies import Repeats, first_copies, kept_apart
from indexer.datasets import DEFAULT_LIMITS, Dataset
from indexer.embed import batches
from indexer.embedding import BATCH, Embedded, embed
from indexer.encoders import EncoderSource, PreparedEncoder
from indexer.fit import QUERIES_AT_ONCE, Holdout, fit
from indexer.fold import Folded
from indexer.folders import FolderDataset, why_empty
from indexer.keeping import keeper_of
from indexer.memory import check_memory
from indexer.progress import Progress, silent
from indexer.truncation import measure
from model import bundle as bundles
from model.cache import Floats, check_parameters
from model.engines import Engine
from model.entries import Entry, write_entries
from model.errors import DatasetError
from model.images import RESIZE, Limits
from model.manifest import DatasetInfo, InputInfo, Manifest
from model.milvus import Milvus, from_environment
from model.predictor import Parameters
from model.root import draft, new_generation
from model.stores import parts

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
    limits: Limits = DEFAULT_LIMITS
    """Of taught images, where parts are merged."""


Gather = Callable[[Dataset, PreparedEncoder, Progress], Embedded]
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
        RecipeError, StoreError, StoreAwayError, EngineError, BundleError, ParameterError, MemoryLimitError: as their
            names say; then nothing is written.
    """
    if options.parameters:
        check_parameters(*options.parameters)
    with draft(root) as folder, ExitStack() as undo:
        encoder = source.prepare(dataset, folder, progress)
        copies, count = 2 if options.mirror else 1, len(dataset.labels)
        fewest = max(1, int(count * EXPECTED_SHARE))
        # Refuse what cannot be before the long work, not after it.
        keeper = keeper_of(
            options.store,
            milvus or from_environment(),
            copies * count,
            encoder.engine.dim,
            copies * fewest,
            options.parameters.k if options.parameters else None,
            is_k_given=options.parameters is not None,
        )
        undo.callback(keeper.discard)
        exact = options.parameters is not None and options.parameters.k is None and keeper.info.factory == "Flat"
        check_index_memory(copies * len(dataset.labels), encoder.engine.dim, measured=not exact)
        embedded = (gather or _embedding(options))(dataset, encoder, progress)
        unreadable = _check_readable(dataset, embedded)
        repeated = _repeated(dataset, embedded)
        values = dataset.labels[embedded.positions]
        generation = new_generation()
        store = keeper.build(generation, embedded.keys, values, progress)
        holdout, held = _holdout(dataset, embedded, values)
        fitted = None
        if options.parameters is None:
            if not len(holdout.labels) or held.all():
                raise DatasetError(
                    f"{dataset.name} has too few different images to hold any out for fitting: give --theta, --lam and "
                    "--k"
                )
            fitted = fit(holdout, store, held, len(dataset.classes), progress=progress)
        chosen = options.parameters or Parameters(fitted.theta, fitted.lam, fitted.k)  # type: ignore[union-attr]
        truncation = None
        if exact:
            pass  # Nothing is left out.
        elif len(holdout.labels) and not held.all():
            novelty = fitted.calibration.novelty if fitted else None
            exact_keys, classes = _Less(embedded.keys, values, held), len(dataset.classes)
            store, truncation = measure(store, exact_keys, holdout, held, chosen, classes, novelty, progress)
            del exact_keys
        elif not store.is_exhaustive:
            store = store.with_search(store.efforts()[-1])
        calibration = None
        if fitted is not None:
            novelty = fitted.calibration.novelty
            calibration = calibrate(store, holdout, held, chosen, len(dataset.classes), novelty, progress)
        store_info = keeper.write(store, folder)
        np.save(folder / bundles.VALUES, values.astype(np.int32), allow_pickle=False)
        write_entries(
            folder / bundles.ENTRIES,
            _entries(dataset, embedded, values),
            embedded.sheets,
            height=encoder.engine.size[0],
        )
        # Verifying reads the bundle back: at 4.9 GB of keys there is no room for these copies beside it.
        del store, embedded
        progress("verify", 0, 1)
        manifest = Manifest(
            generation=generation,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            secondlook_version=version("secondlook"),
            dataset=DatasetInfo(
                name=dataset.name,
                split=dataset.split,
                images=len(dataset.labels) - len(unreadable),
                mirrored=options.mirror,
                unreadable=unreadable,
                left_out=dataset.left_out.counts(),
                **repeated,
                sha256=dataset.content_hash(),
            ),
            classes=dataset.classes,
            network=encoder.network.model_copy(update={"classes": _known(encoder.engine, dataset)}),
            recipe=encoder.recipe,
            input=InputInfo(height=encoder.engine.size[0], width=encoder.engine.size[1], resize=RESIZE),
            store=store_info,
            theta=chosen.theta,
            lam=chosen.lam,
            k=chosen.k,
            fit=fitted.report if fitted else None,
            calibration=calibration,
            truncation=truncation,
            taught=dataset.change if isinstance(dataset, Folded) else None,
        )
        bundles.commit(root, folder, manifest, milvus)
        undo.pop_all()
        progress("verify", 1, 1)
    return generation


def memory_needed(entries: int, dim: int, *, measured: bool = True) -> int:
    """Bytes of memory that an index needs at its widest, were its store to keep the keys as they are."""
    # The keys as embedded and the store's own; where anything is measured on the holdout, the copy without it, and
    # the similarities (float32) and order (int64) of all entries for some queries at a time.
    return 4 * entries * dim * (3 if measured else 2) + (12 * QUERIES_AT_ONCE * entries if measured else 0)


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


def embed_images(
    dataset: Dataset, positions: NDArray[np.int64], engine: Engine, progress: Progress = silent
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Logits (n,C), keys (n,D) and labels (n,) of some images of a dataset, as they are, in order.

    Raises:
        DatasetError: none of them can be read.
    """
    logits: list[Floats] = []
    keys: list[Floats] = []
    done: list[NDArray[np.int64]] = []
    for indices, images in batches(dataset, positions, engine.size, BATCH):
        encoding = engine.encode(images)
        logits.append(encoding.logits)
        keys.append(encoding.keys)
        done.append(indices)
        progress("embed", sum(map(len, done)), len(positions))
    if not done:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    return np.concatenate(logits), np.concatenate(keys), dataset.labels[np.concatenate(done)]


def _embedding(options: IndexOptions) -> Gather:
    """Embeds all images here and now."""

    def gather(dataset: Dataset, encoder: PreparedEncoder, progress: Progress) -> Embedded:
        everything = np.arange(len(dataset.labels))
        copies = {"mirror": options.mirror, "thumbnails": options.thumbnails}
        return embed(dataset, everything, encoder, progress, **copies)

    return gather


def _check_readable(dataset: Dataset, embedded: Embedded) -> tuple[str, ...]:
    """The sources of the images that gave no entries.

    Raises:
        DatasetError: they are all images of a class, or most of all: then something is amiss that is not theirs.
    """
    there = np.zeros(len(dataset.labels), bool)
    there[embedded.positions] = True
    have = np.isin(np.arange(len(dataset.classes)), dataset.labels[there])
    # Classes of which people removed every image are no surprise.
    folder = dataset.of if isinstance(dataset, Folded) else dataset
    lost = [
        label
        for label in np.flatnonzero(~have).tolist()
        if (dataset.labels == label).any() or (isinstance(folder, FolderDataset) and _is_empty(folder, label))
    ]
    if lost:
        own = [label for label in lost if label < len(folder.classes)]
        if isinstance(folder, FolderDataset) and own:
            raise DatasetError(why_empty(folder, own))
        raise DatasetError(
            f"{dataset.name} has no readable images of {', '.join(dataset.classes[label] for label in lost[:5])}"
        )
    if 2 * there.sum() < len(there):
        raise DatasetError(f"most images of {dataset.name} cannot be read: {dataset.left_out.said()}")
    return tuple(dataset.source(position) for position in np.flatnonzero(~there).tolist())


def _is_empty(folder: FolderDataset, label: int) -> bool:
    return label < len(folder.classes) and not (folder.labels == label).any()


def _entries(dataset: Dataset, embedded: Embedded, values: NDArray[np.int64]) -> Iterator[Entry]:
    columns = (embedded.positions, values, embedded.mirrored, embedded.sheet, embedded.place)
    for start in range(0, len(values), ENTRIES_AT_ONCE):
        rows = zip(*(column[start : start + ENTRIES_AT_ONCE].tolist() for column in columns), strict=True)
        for i, (position, value, mirrored, sheet, place) in enumerate(rows, start):
            yield Entry(i, dataset.source(position), value, mirrored, sheet if sheet >= 0 else None, place)


def _holdout(dataset: Dataset, embedded: Embedded, values: NDArray[np.int64]) -> tuple[Holdout, NDArray[np.bool_]]:
    """The holdout's images as queries, and which entries (N,) are of them or of copies."""
    held = np.isin(embedded.positions, dataset.holdout())
    own = ~embedded.mirrored
    apart = kept_apart(held[own], embedded.looks, values[own])
    queries = held & own
    return Holdout(embedded.logits, embedded.keys[queries], values[queries]), apart[_rows_of_looks(embedded)]


def _rows_of_looks(embedded: Embedded) -> NDArray[np.int64]:
    """Where among the looks each entry's image is (N,): an image's own and its mirrored entry share one."""
    originals = embedded.positions[~embedded.mirrored]
    order = np.argsort(originals)
    return order[np.searchsorted(originals[order], embedded.positions)]


def _repeated(dataset: Dataset, embedded: Embedded) -> dict[str, Any]:
    """What the manifest says of copies."""
    positions = embedded.positions[~embedded.mirrored]
    found = Repeats.of(first_copies(embedded.looks), dataset.labels[positions])
    sources = [tuple(dataset.source(int(positions[row])) for row in pair) for pair in found.across[:PAIRS_NAMED]]
    return {"duplicates": found.images, "in_two_classes": sources, "in_two_classes_count": len(found.across)}


def _known(engine: Engine, dataset: Dataset) -> int | None:
    """How many of the dataset's classes the network knows; None = all."""
    return engine.classes if engine.classes < len(dataset.classes) else None


@dataclass(frozen=True)
class _Less:
    """Chunks of the keys as embedded, those held left out, without a second copy of all."""

    keys: Floats
    values: NDArray[np.int64]
    held: NDArray[np.bool_]

    def __iter__(self) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        for part in parts(*self.keys.shape):
            kept = ~self.held[part]
            if kept.any():
                yield self.keys[part][kept], self.values[part][kept]

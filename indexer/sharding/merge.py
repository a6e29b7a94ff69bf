"""Parts of an index (``sharding.shards``), checked and made into one bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.fold import FoldedDataset, fold
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.left_out import Reason
from secondlook.indexer.embedding.chunks import Arrays
from secondlook.indexer.embedding.encoders import FromBundle, PreparedEncoder
from secondlook.indexer.embedding.entries import EmbeddedEntries, embed_entries
from secondlook.indexer.embedding.kept_features import Counts, KeptFeatures
from secondlook.indexer.embedding.sheets import KeptSheet, less
from secondlook.indexer.embedding.spool import Spool
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.sharding.shards import (
    MANIFEST,
    Plan,
    ShardInfo,
    chunk_ranges,
    listing_hash,
    read_chunk,
    read_info,
    shard_folder,
    shard_range,
)
from secondlook.model.bundles.files import encoder_id, read_manifest
from secondlook.model.bundles.root import active_generation, generations
from secondlook.model.errors import PartsError
from secondlook.model.journal import Journal
from secondlook.model.manifest import FileInfo
from secondlook.model.stores.store import parts as slices

NAMED = 10
"""Missing shards that are named."""


@dataclass(frozen=True)
class Parts:
    """A whole set of finished shards."""

    folder: Path
    plan: Plan
    files: dict[Path, FileInfo]
    """In the order of their images."""

    def chunks(self, *names: str) -> Iterator[Arrays]:
        """The arrays of each file, or those named, files not held to their hashes."""
        for path in self.files:
            yield read_chunk(path, names=names)

    @property
    def digests(self) -> Digests:
        """Of the dataset's files."""
        return Digests(self)


@dataclass(frozen=True)
class Digests:
    """SHA-256 of each of a folder's files, as its shard found it; may be gone through more than once."""

    parts: Parts

    def __iter__(self) -> Iterator[bytes]:
        for arrays in self.parts.chunks("digests"):
            yield from map(bytes, arrays["digests"])


def open_parts(folder: Path) -> Parts:
    """The shards below a folder, held to belong together and to be all there; their files are not read yet.

    Raises:
        PartsError: there are none, some are missing or unfinished (names which), or they are of different runs.
    """
    found: dict[int, ShardInfo] = {}
    for path in sorted(folder.glob("shard-*")):
        info = read_info(path)
        if info is None:
            continue
        first = next(iter(found.values()), info)
        if (other := info.plan.difference(first.plan)) is not None:
            raise PartsError(f"{path} is of {other}, unlike {shard_folder(folder, first.shard)}: remove one of them")
        if path != shard_folder(folder, info.shard) or info.shard >= info.plan.shards:
            raise PartsError(f"{path / MANIFEST} is of shard {info.shard} of {info.plan.shards}: remove {path}")
        found[info.shard] = info
    if not found:
        raise PartsError(f"{folder} has no parts of an index: embed them first (secondlook index DATASET --shards ...)")
    plan = next(iter(found.values())).plan
    missing = [i for i in range(plan.shards) if i not in found or found[i].files is None]
    if missing:
        named = ", ".join(map(str, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        those = "shard {} is" if len(missing) == 1 else "shards {} are"
        raise PartsError(f"{folder}: {those.format(named)} missing or unfinished, of {plan.shards:,}: run them first")
    files: dict[Path, FileInfo] = {}
    for shard in range(plan.shards):
        listed = found[shard].files or {}
        path = shard_folder(folder, shard)
        if listed.keys() != chunk_ranges(plan.images, plan.shards, shard).keys():
            raise PartsError(f"{path / MANIFEST} does not list the shard's files: remove {path} and run it again")
        files |= {path / name: listed[name] for name in sorted(listed)}
    return Parts(folder, plan, files)


def merge(
    dataset: Dataset,
    parts: Parts,
    root: Path,
    source: Path,
    options: IndexOptions,
    journal: Journal | None = None,
    progress: Progress = silent,
    counts: Counts | None = None,
) -> str:
    """Make a bundle below ``root`` of parts of a dataset, as ``index`` does of the dataset itself; its generation.

    ``source`` is the root with the encoder that the parts were made with. Mirroring and thumbnails are those of the
    parts. What the journal says was taught is folded in, and taught images are embedded here. No image of the dataset
    is read.

    Raises:
        PartsError: the parts are of another dataset or encoder, damaged, or have an image twice or not at all.
        And what ``index`` raises.
    """
    plan = parts.plan
    if listing_hash(dataset) != plan.listing:
        raise PartsError(f"{parts.folder} has parts of {plan.dataset} that are not of this dataset as it now is")
    generation = plan.generation if plan.generation in generations(source) else active_generation(source)
    if encoder_id(read_manifest(source, generation)) != plan.encoder:
        raise PartsError(
            f"{parts.folder} was embedded by the encoder of generation {plan.generation}, "
            f"which {source} does not have any more: give the --bundles that have it"
        )
    held = dataset.holdout()
    if isinstance(dataset, FolderDataset):
        dataset = replace(dataset, digests=parts.digests)
    if journal is not None:
        dataset = fold(dataset, journal)

    def gather(dataset: Dataset, encoder: PreparedEncoder, kept: KeptFeatures, progress: Progress) -> EmbeddedEntries:
        return _gather(parts, held, dataset, encoder, kept, progress, root)

    options = replace(options, mirror=plan.mirror, thumbnails=plan.thumbnails)
    return index(dataset, root, FromBundle(source, generation), options, progress, gather, counts=counts)


def _gather(
    parts: Parts,
    held: NDArray[np.int64],
    dataset: Dataset,
    encoder: PreparedEncoder,
    kept_features: KeptFeatures,
    progress: Progress,
    folder: Path,
) -> EmbeddedEntries:
    """What the parts hold, as positions in a dataset that may have been folded since; keys on the disk of a folder."""
    plan, engine = parts.plan, encoder.engine
    # Where each image is now; -1 = removed.
    now = np.arange(plan.images)
    if isinstance(dataset, FoldedDataset):
        now[:] = -1
        now[dataset.kept] = np.arange(len(dataset.kept))
    is_held = np.zeros(plan.images, bool)
    is_held[held] = True
    presence = _Presence(parts)
    found: list[EmbeddedEntries] = []
    entries = sheets = done = 0
    keys, nothing = Spool(folder), np.empty((0, engine.dim), np.float32)
    for path, info in parts.files.items():
        arrays = read_chunk(path, info)
        asked = is_held[arrays["positions"]] & ~arrays["mirrored"]
        if "pixels" not in arrays or len(arrays["logits"]) != asked.sum():
            raise PartsError(f"{path} was made by an older secondlook: remove {path.parent} and run its shard again")
        presence.add(arrays)
        for position, reason, why in zip(*(arrays[n].tolist() for n in ("unreadable", "reasons", "whys")), strict=True):
            if now[position] >= 0:
                dataset.left_out.add(dataset.source(int(now[position])), Reason(reason), why)
        positions, mirrored = now[arrays["positions"]], arrays["mirrored"]
        kept = positions >= 0
        keys.add(np.ascontiguousarray(arrays["keys"][kept]).data)
        # Parts that were embedded with a linear head have its logits, and are merged with a new one.
        logits = arrays["logits"][kept[asked], : engine.classes]
        sheet, place = _renumbered(arrays["sheet"][kept], arrays["place"][kept], sheets)
        looks, originals = Looks(arrays["pixels"], arrays["luma"], arrays["colours"]), kept[~arrays["mirrored"]]
        if len(looks) == len(originals):  # if not, an image is there twice or not at all, which is said below
            looks = looks[originals]
        found.append(EmbeddedEntries(nothing, positions[kept], mirrored[kept], logits, (), sheet, place, looks))
        entries, sheets = entries + len(sheet), max(sheets, sheet.max(initial=-1) + 1)
        done += int((~mirrored).sum()) + len(arrays["unreadable"])
        progress("merge", done, plan.images)
    presence.check()
    taught: Iterable[bytes] = ()
    if isinstance(dataset, FoldedDataset):
        new = np.arange(len(dataset.kept), len(dataset.labels))
        more = embed_entries(
            dataset,
            new,
            encoder,
            progress,
            mirror=plan.mirror,
            thumbnails=plan.thumbnails,
            kept=kept_features,
            folder=folder,
        )
        for part in slices(*more.keys.shape):
            keys.add(more.keys[part].data)
        taught = more.sheets
        found.append(replace(more, sheet=np.where(more.sheet >= 0, more.sheet + sheets, -1)))
        entries += len(more.sheet)
    return EmbeddedEntries(
        keys.array(np.float32, entries, engine.dim),
        np.concatenate([part.positions for part in found]),
        np.concatenate([part.mirrored for part in found]),
        np.concatenate([part.logits for part in found]),
        chain(_sheets(parts, now), taught),
        np.concatenate([part.sheet for part in found]),
        np.concatenate([part.place for part in found]),
        Looks.joined([part.looks for part in found]),
    )


class _Presence:
    """How often each image is in the parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._readable, self._unreadable, self._mirrored = (np.zeros(parts.plan.images, np.uint8) for _ in range(3))

    def add(self, arrays: Arrays) -> None:
        """Count those of one file."""
        positions, mirrored = arrays["positions"], arrays["mirrored"]
        np.add.at(self._readable, positions[~mirrored], 1)
        np.add.at(self._mirrored, positions[mirrored], 1)
        np.add.at(self._unreadable, arrays["unreadable"], 1)

    def check(self) -> None:
        """Hold the parts to every image once, and once mirrored where it is to be.

        Raises:
            PartsError: names the first image that is there otherwise.
        """
        plan = self._parts.plan
        wrong = self._readable + self._unreadable != 1
        wrong |= self._mirrored != (self._readable if plan.mirror else 0)
        if wrong.any():
            position = int(wrong.argmax())
            shard = next(i for i in range(plan.shards) if position in shard_range(plan.images, plan.shards, i))
            raise PartsError(
                f"{self._parts.folder} has {int(wrong.sum()):,} images twice or not at all, that at position "
                f"{position:,} first: remove {shard_folder(self._parts.folder, shard)} and run it again"
            )


def _renumbered(
    sheet: NDArray[np.int64], place: NDArray[np.int64], start: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sheets and places of entries whose file's other entries were removed; the first sheet's number is ``start``.

    A sheet has no picture but those of its entries.
    """
    if (sheet < 0).all():  # no thumbnails
        return sheet, np.zeros_like(sheet)
    numbers, renumbered = np.unique(sheet, return_inverse=True)
    places = np.empty_like(place)
    for number in numbers.tolist():
        rows = sheet == number
        places[rows] = np.unique(place[rows], return_inverse=True)[1]
    return start + renumbered, places


def _sheets(parts: Parts, now: NDArray[np.int64]) -> Iterator[bytes]:
    """The contact sheets in order, without the pictures of images that were removed."""
    if not parts.plan.thumbnails:
        return
    for arrays in parts.chunks("positions", "sheet", "place", "sheets", "sheet_sizes"):
        kept, sheet, place = now[arrays["positions"]] >= 0, arrays["sheet"], arrays["place"]
        ends = np.cumsum(arrays["sheet_sizes"])
        for number in np.unique(sheet[kept]).tolist():
            jpeg = arrays["sheets"][ends[number] - arrays["sheet_sizes"][number] : ends[number]].tobytes()
            pictures = int(place[sheet == number].max()) + 1
            stay = np.unique(place[(sheet == number) & kept])
            yield jpeg if len(stay) == pictures else less(KeptSheet(jpeg, pictures), stay)

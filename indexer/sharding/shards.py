"""The embedding stage in parts, which any scheduler can run side by side, one process for each.

Shard I of N embeds the I-th of N consecutive ranges of a dataset's batches. Ranges, because the shards in order are
then, entry for entry, what one process would have embedded, and to merge them (``sharding.merge``) is to copy them one
after the other.

Shards embed with the encoder of an existing bundle and no other. A key's projection that each shard fitted for itself
would differ in its last bits from machine to machine; so a new network is indexed once, on a small part of the images
that has all classes, and the shards then take that bundle's encoder.

What was taught is not in them: it changes while they run. It is folded in where they are merged.

::

    PARTS/shard-00003/shard.json     what it is a part of; when it is finished, its files with their hashes
                     /00000001.npz   its second CHUNK images: keys and what else ``EmbeddedEntries`` has

A file is there whole or not at all, so a shard that was killed goes on after the last one. Two processes that run the
same shard do each other no harm.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.embedding.chunks import DAMAGED, Arrays, packed, unpacked, write_whole
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.encoders import FromBundle, PreparedEncoder, prepared
from secondlook.indexer.embedding.entries import embed_entries
from secondlook.indexer.embedding.kept_features import KeptFeatures, keeping_of
from secondlook.indexer.progress import Progress, silent
from secondlook.model.bundles.bundle import OpenEncoder
from secondlook.model.bundles.files import encoder_id, read_manifest
from secondlook.model.bundles.locks import fsync
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import ParameterError, PartsError
from secondlook.model.manifest import FileInfo

CHUNK = 16 * BATCH
"""Images in one file: what a killed shard loses at most, about a second of one processor's work."""

MANIFEST = "shard.json"
NEEDED = ("keys", "positions", "mirrored", "pixels", "luma", "colours", "unreadable", "reasons", "whys")
"""What a file of another version might not have."""


class Plan(BaseModel):
    """What all shards of one index have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listing: str
    """SHA-256 of the dataset's name, split, classes, sources and labels: all of it that is known without reading
    images."""
    dataset: str
    images: int
    encoder: str
    """SHA-256 of the bundle's encoder."""
    generation: str
    """The bundle's."""
    mirror: bool
    thumbnails: bool
    shards: int = Field(ge=1)

    def difference(self, other: Plan) -> str | None:
        """In what they cannot be merged; None = they can."""
        for name, words in (
            ("listing", "another dataset"),
            ("encoder", "another encoder"),
            ("shards", f"a split into {self.shards:,}, not into {other.shards:,}"),
            ("mirror", f"a run {'with' if self.mirror else 'without'} --mirror"),
            ("thumbnails", f"a run {'with' if self.thumbnails else 'without'} thumbnails"),
        ):
            if getattr(self, name) != getattr(other, name):
                return words
        return None


class ShardInfo(BaseModel):
    """A shard's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    shard: int
    files: dict[str, FileInfo] | None = None
    """None until it is finished."""


def shard_range(images: int, shards: int, shard: int) -> range:
    """Positions of a shard's images; whole batches but for the dataset's last."""
    batches = -(-images // BATCH)
    first, end = shard * batches // shards, (shard + 1) * batches // shards
    return range(first * BATCH, min(end * BATCH, images))


def chunk_ranges(images: int, shards: int, shard: int) -> dict[str, range]:
    """The names of a shard's files, and positions of the images in each."""
    positions = shard_range(images, shards, shard)
    starts = range(positions.start, positions.stop, CHUNK)
    return {f"{i:08d}.npz": range(start, min(start + CHUNK, positions.stop)) for i, start in enumerate(starts)}


def shard_folder(parts: Path, shard: int) -> Path:
    """Where a shard lies."""
    return parts / f"shard-{shard:05d}"


def listing_hash(dataset: Dataset) -> str:
    """SHA-256 of a dataset's name, split, classes, sources and labels."""
    digest = hashlib.sha256(json.dumps([dataset.name, dataset.split, dataset.classes]).encode())
    for position, label in enumerate(dataset.labels.tolist()):
        digest.update(f"{dataset.source(position)}\0{label}\n".encode())
    return digest.hexdigest()


class Shards:
    """Embeds shards of a dataset into a folder of parts, with one encoder for all of them.

    ``threads`` are the encoder's on a processor; 0 = all cores.

    Raises:
        BundleError: the bundle is refused.
        ParameterError: there are fewer than one shard.
    """

    def __init__(
        self,
        dataset: Dataset,
        source: FromBundle,
        parts: Path,
        shards: int,
        *,
        mirror: bool = False,
        thumbnails: bool = True,
        threads: int = 0,
    ) -> None:
        if shards < 1:
            raise ParameterError(f"a dataset cannot be split into {shards} shards: give 1 or more")
        self._dataset, self._parts, self._threads = dataset, parts, threads
        generation = source.generation or active_generation(source.root)
        self._source = FromBundle(source.root, generation)
        self.plan = Plan(
            listing=listing_hash(dataset),
            dataset=dataset.name,
            images=len(dataset.labels),
            encoder=encoder_id(read_manifest(source.root, generation)),
            generation=generation,
            mirror=mirror,
            thumbnails=thumbnails,
            shards=shards,
        )

    @cached_property
    def _opened(self) -> OpenEncoder:
        return self._source.open(self._dataset, self._threads)

    @cached_property
    def _encoder(self) -> PreparedEncoder:
        return prepared(self._opened, self._dataset)

    @cached_property
    def _kept(self) -> KeptFeatures:
        return keeping_of(self._source.root, self._opened)

    def unfinished(self) -> list[int]:
        """The shards that are yet to be embedded, or to be embedded further.

        Raises:
            PartsError: the folder has parts of another index.
        """
        return [shard for shard in range(self.plan.shards) if not self._is_finished(shard)]

    def write(self, shard: int, progress: Progress = silent) -> bool:
        """Embed a shard, or what is left of it; whether anything was left.

        Raises:
            ParameterError: there is no such shard.
            PartsError: the folder has parts of another index.
            DatasetError: the dataset's classes are not the network's.
            BundleError, EngineError, OSError: as their names say.
        """
        if not 0 <= shard < self.plan.shards:
            raise ParameterError(f"there is no shard {shard} of {self.plan.shards}: they count from 0")
        if self._is_finished(shard):
            return False
        folder = shard_folder(self._parts, shard)
        folder.mkdir(parents=True, exist_ok=True)
        if read_info(folder) is None:
            for stray in folder.glob("*.npz"):  # nothing says what they are of
                stray.unlink()
        write_whole(folder / MANIFEST, _as_json(ShardInfo(plan=self.plan, shard=shard)))
        fsync(self._parts)
        ranges = chunk_ranges(self.plan.images, self.plan.shards, shard)
        total = sum(map(len, ranges.values()))
        files: dict[str, FileInfo] = {}
        done = 0
        for name, positions in ranges.items():
            arrays = self._whole(folder / name)
            if arrays is None:
                embedded = self._embed(positions, lambda _, now, __: progress("embed", done + now, total))  # noqa: B023
                if not (folder / name).exists():  # another process may have been here meanwhile
                    write_whole(folder / name, embedded)
            else:
                progress("embed", done + len(positions), total)
            content = (folder / name).read_bytes()
            files[name] = FileInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            done += len(positions)
        write_whole(folder / MANIFEST, _as_json(ShardInfo(plan=self.plan, shard=shard, files=files)))
        return True

    def _is_finished(self, shard: int) -> bool:
        folder = shard_folder(self._parts, shard)
        found = read_info(folder)
        if found is None:
            return False
        if (other := found.plan.difference(self.plan)) is not None:
            raise PartsError(f"{folder} is of {other}: give another folder for the parts, or remove it")
        return found.files is not None and all(
            (folder / name).is_file() and (folder / name).stat().st_size == info.size
            for name, info in found.files.items()
        )

    def _whole(self, path: Path) -> Arrays | None:
        """A file of an earlier run; None where there is none, or it was damaged since."""
        try:
            return read_chunk(path)
        except PartsError:
            path.unlink(missing_ok=True)
            return None

    def _embed(self, positions: range, progress: Progress) -> bytes:
        """The file's content of some images."""
        images = np.arange(positions.start, positions.stop)
        embedded = embed_entries(
            self._dataset,
            images,
            self._encoder,
            progress,
            mirror=self.plan.mirror,
            thumbnails=self.plan.thumbnails,
            kept=self._kept,
            folder=self._parts,
        )
        sheets = list(embedded.sheets)
        unreadable = np.setdiff1d(images, embedded.positions)
        left = [self._dataset.left_out.of(self._dataset.source(position)) for position in unreadable.tolist()]
        arrays: Arrays = {
            "keys": embedded.keys,
            "positions": embedded.positions,
            "mirrored": embedded.mirrored,
            "logits": embedded.logits,
            "sheet": embedded.sheet,
            "place": embedded.place,
            "pixels": embedded.looks.digests,
            "luma": embedded.looks.luma,
            "colours": embedded.looks.colours,
            "sheets": np.frombuffer(b"".join(sheets), np.uint8),
            "sheet_sizes": np.array([len(sheet) for sheet in sheets], np.int64),
            "unreadable": unreadable,
            "reasons": np.array([one.reason for one in left], np.str_),
            "whys": np.array([one.why for one in left], np.str_),
        }
        if isinstance(self._dataset, FolderDataset):
            digests = b"".join(map(self._dataset.digest, positions))
            arrays["digests"] = np.frombuffer(digests, np.uint8).reshape(-1, hashlib.sha256().digest_size)
        return packed(arrays)


def read_info(folder: Path) -> ShardInfo | None:
    """A shard's manifest; None where there is none.

    Raises:
        PartsError: it is damaged.
    """
    try:
        return ShardInfo.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise PartsError(f"{folder / MANIFEST} is not a shard's manifest: remove {folder} and run it again") from error


def read_chunk(path: Path, info: FileInfo | None = None, names: tuple[str, ...] | None = None) -> Arrays:
    """The arrays of one file, or some of them; with ``info``, once it is what the manifest says.

    Raises:
        PartsError: it is missing or damaged.
        OSError: it cannot be read.
    """
    again = f"run shard {int(path.parent.name.rpartition('-')[2])} again"
    damaged = PartsError(f"{path} is damaged: remove it and {again}")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise PartsError(f"{path} is missing: {again}") from error
    if info is not None and info != FileInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest()):
        raise damaged
    try:
        return unpacked(content, names, NEEDED)
    except DAMAGED as error:
        raise damaged from error


def _as_json(info: ShardInfo) -> bytes:
    return (info.model_dump_json(indent=1) + "\n").encode()

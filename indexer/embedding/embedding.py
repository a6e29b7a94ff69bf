"""Images through an encoder, a batch at a time; what is known of earlier runs is neither decoded nor embedded again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.left_out import LeftOutError, Reason, reason_of
from secondlook.indexer.datasets.reading import read_ahead
from secondlook.indexer.embedding.feature_files import Found
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.embedding.sheets import Sheets
from secondlook.model.cache import Ints
from secondlook.model.errors import ImageError
from secondlook.model.networks.engines import Encoding, Engine, ImageEncoder

BATCH = 64
NOT_FINITE = "the network gives no finite numbers"


class EmbeddedCopy(NamedTuple):
    """What a batch of images, or of their mirrored copies, gave."""

    encoding: Encoding
    sheet: Ints
    """(b,) the contact sheet that shows each; -1 = none."""
    place: Ints
    """(b,) which of the sheet's pictures it is."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """Images that could be read, in the order of their positions."""

    positions: Ints
    """(b,)."""
    copies: tuple[EmbeddedCopy, ...]
    """Of the images, then of their mirrored copies."""
    looks: Looks
    images: NDArray[np.uint8] | None
    """(b,height,width,3), where those were asked for."""


class _Read(NamedTuple):
    digest: bytes | None
    found: tuple[Found | None, ...]
    image: NDArray[np.uint8] | None


def embedded_batches(
    dataset: Dataset,
    positions: Ints,
    encoder: ImageEncoder,
    kept: KeptFeatures,
    *,
    mirror_engine: Engine | None = None,
    mirror: bool = False,
    sheets: Sheets | None = None,
    with_images: bool = False,
) -> Generator[EmbeddedBatch, None, None]:
    """Embed the images at positions (p,), BATCH at a time, those of a batch that are not known; in order, none empty.

    Images that cannot be read, and those for which the network gives numbers that are not finite, are left out, and
    noted. With ``sheets``, thumbnails are made, and known ones taken; they are kept with the keys.
    """
    engine = encoder.engine
    engines = [engine, *([mirror_engine or engine] if mirror else [])]
    pictures = sheets is not None

    def look_up(digest: bytes | None, mirrored: bool) -> Found | None:
        return None if digest is None else kept.find(digest, mirrored=mirrored, picture=pictures)

    def read(index: int) -> _Read:
        content = dataset.content(index) if kept.is_kept else None
        if content is None:
            return _Read(None, (None,) * len(engines), dataset.read(index, encoder.geometry))
        digest = content.digest
        if (left := kept.left(digest)) is not None:
            content.check()
            raise LeftOutError(left.reason, left.why)
        found = tuple(look_up(digest, bool(mirrored)) for mirrored in range(len(engines)))
        if all(one is not None and (one.sheet is not None or not pictures) for one in found) and not with_images:
            content.check()
            return _Read(digest, found, None)
        try:
            image = content.decode(encoder.geometry)
        except ImageError as error:
            if reason_of(error) is Reason.DAMAGED and not isinstance(error.__cause__, MemoryError):
                kept.leave(digest, Reason.DAMAGED, str(error))
            raise
        return _Read(digest, found, image)

    try:
        for batch in read_ahead(dataset, positions, BATCH, read):
            made = _embedded(batch, engines, kept, sheets, look_up, dataset)
            if made is not None:
                yield made if with_images else EmbeddedBatch(made.positions, made.copies, made.looks, None)
    finally:
        kept.flush()


def _embedded(
    batch: Sequence[tuple[int, _Read]],
    engines: Sequence[Engine],
    kept: KeptFeatures,
    sheets: Sheets | None,
    look_up: Callable[[bytes | None, bool], Found | None],
    dataset: Dataset,
) -> EmbeddedBatch | None:
    # What was embedded since it was looked up, a copy of the same file, say, is known by now.
    found = [[one.found[copy] or look_up(one.digest, bool(copy)) for _, one in batch] for copy in range(len(engines))]
    encodings = [
        _encoding(batch, of_copy, engine, kept, is_mirrored=copy == 1)
        for copy, (of_copy, engine) in enumerate(zip(found, engines, strict=True))
    ]
    finite = np.all([np.isfinite(one.keys).all(1) & np.isfinite(one.logits).all(1) for one in encodings], axis=0)
    for row in np.flatnonzero(~finite).tolist():
        position, one = batch[row]
        dataset.left_out.add(dataset.source(position), Reason.NO_KEY, NOT_FINITE)
        if one.digest is not None:
            kept.leave(one.digest, Reason.NO_KEY, NOT_FINITE)
    stays = np.flatnonzero(finite)
    if not len(stays):
        return None
    batch = [batch[row] for row in stays.tolist()]
    found = [[of_copy[row] for row in stays.tolist()] for of_copy in found]
    encodings = [Encoding(*(part[stays] for part in one)) for one in encodings]
    looks = _looks(batch, found)
    copies = [
        _kept_copy(batch, of_copy, encoding, looks, kept, sheets, is_mirrored=copy == 1)
        for copy, (of_copy, encoding) in enumerate(zip(found, encodings, strict=True))
    ]
    new = np.any([[one is None for one in of_copy] for of_copy in found], axis=0)
    kept.counts.add([one.digest for _, one in batch], new.tolist())
    images = [one.image for _, one in batch if one.image is not None]
    is_all = len(images) == len(batch)
    return EmbeddedBatch(
        np.array([position for position, _ in batch]), tuple(copies), looks, np.stack(images) if is_all else None
    )


def _encoding(
    batch: Sequence[tuple[int, _Read]],
    found: Sequence[Found | None],
    engine: Engine,
    kept: KeptFeatures,
    *,
    is_mirrored: bool,
) -> Encoding:
    """What the encoder says of a batch: as it was found, and of the others now."""
    new = np.array([row for row, one in enumerate(found) if one is None], np.int64)
    fresh = engine.encode(_images(batch, new, is_mirrored=is_mirrored)) if len(new) else None
    if fresh is not None and len(new) == len(batch):
        return fresh
    keys = np.empty((len(batch), engine.dim), np.float32)
    logits = np.empty((len(batch), engine.classes), np.float32)
    known = np.array([row for row, one in enumerate(found) if one is not None], np.int64)
    keys[known] = [one.key for one in found if one is not None]
    logits[known] = kept.logits([one for one in found if one is not None], keys[known], engine.classes)
    if fresh is not None:
        keys[new], logits[new] = fresh.keys, fresh.logits
    return Encoding(logits, keys)


def _kept_copy(
    batch: Sequence[tuple[int, _Read]],
    found: Sequence[Found | None],
    encoding: Encoding,
    looks: Looks,
    kept: KeptFeatures,
    sheets: Sheets | None,
    *,
    is_mirrored: bool,
) -> EmbeddedCopy:
    """Take the thumbnails that there are, make the others, and keep what is new."""
    sheet, place = np.full(len(batch), -1, np.int64), np.zeros(len(batch), np.int64)
    new = [row for row, one in enumerate(found) if one is None or (sheets is not None and one.sheet is None)]
    number: int | None = None
    if sheets is not None:
        for row, one in enumerate(found):
            if one is not None and one.sheet is not None:
                sheet[row], place[row] = kept.take(sheets, one.sheet), one.place
        if new:
            number = sheets.make(_images(batch, np.array(new), is_mirrored=is_mirrored))
            sheet[new], place[new] = number, np.arange(len(new))
    digests = [digest for row in new if (digest := batch[row][1].digest) is not None]
    if digests and len(digests) == len(new):
        rows = np.array(new)
        part = Encoding(*(of[rows] for of in encoding))
        kept.keep(digests, part, looks[rows], number, sheets, mirrored=is_mirrored)
    return EmbeddedCopy(encoding, sheet, place)


def _looks(batch: Sequence[tuple[int, _Read]], found: Sequence[Sequence[Found | None]]) -> Looks:
    """As they were found, or of the images."""
    known = [next((one for one in of_copies if one is not None), None) for of_copies in zip(*found, strict=True)]
    new = np.array([row for row, one in enumerate(known) if one is None], np.int64)
    fresh = Looks.of(_images(batch, new, is_mirrored=False)) if len(new) else Looks.joined([])
    if len(new) == len(batch):
        return fresh
    there = [one.look for one in known if one is not None]
    looks = Looks(
        *(np.empty((len(batch), *of.shape[1:]), of.dtype) for of in (fresh.digests, fresh.luma, fresh.colours))
    )
    old = np.array([row for row, one in enumerate(known) if one is not None], np.int64)
    for name, values in zip(("digests", "luma", "colours"), zip(*there, strict=True), strict=True):
        getattr(looks, name)[old] = values
        getattr(looks, name)[new] = getattr(fresh, name)
    return looks


def _images(batch: Sequence[tuple[int, _Read]], rows: Ints, *, is_mirrored: bool) -> NDArray[np.uint8]:
    images = [image for row in rows.tolist() if (image := batch[row][1].image) is not None]
    assert len(images) == len(rows)
    stacked = np.stack(images)
    return np.ascontiguousarray(stacked[:, :, ::-1]) if is_mirrored else stacked

"""The embedding stage of an index: images in; keys, contact sheets and the holdout's logits out."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.left_out import Reason
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.encoders import PreparedEncoder
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.entry_table import contact_sheet
from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError
from secondlook.model.networks.engines import Encoding

BATCH = 64


@dataclass(frozen=True)
class EmbeddedEntries:
    """The entries of some images, in the order of their ids."""

    keys: Floats
    """(n,D); they may lie in a file that is mapped, and then cannot be written to."""
    positions: NDArray[np.int64]
    """(n,) position in the dataset of each entry's image."""
    mirrored: NDArray[np.bool_]
    """(n,)"""
    logits: Floats
    """(h,C) network logits of the entries that are held out and not mirrored, in their order."""
    sheets: Iterable[bytes]
    """Contact sheets, where thumbnails are wanted."""
    sheet: NDArray[np.int64]
    """(n,) the sheet that shows each entry; -1 = none."""
    place: NDArray[np.int64]
    """(n,) which of the sheet's pictures each entry is."""
    looks: Looks
    """Those of the images that could be read, one each, mirrored copies left out, in their order."""


def embed_entries(
    dataset: Dataset,
    positions: NDArray[np.int64],
    encoder: PreparedEncoder,
    progress: Progress,
    *,
    mirror: bool,
    thumbnails: bool,
) -> EmbeddedEntries:
    """Embed the images at positions (p,), BATCH at a time: the images of a batch, then their mirrored copies.

    Images for which the network gives numbers that are not finite are left out, and noted.

    Raises:
        ParameterError: mirrored copies are asked for, and would have the same keys.
    """
    engine = encoder.engine
    if mirror and encoder.preprocess.mirrored:
        raise ParameterError(
            "the encoder takes the mean of each image and its mirrored copy, so that a mirrored copy has the same key: "
            "leave out --mirror"
        )
    count, copies = len(positions), 2 if mirror else 1
    is_held = np.zeros(len(dataset.labels), bool)
    is_held[dataset.holdout()] = True
    # One allocation: at 100,000 entries of 12,288 numbers a second copy of the keys would cost 4.9 GB.
    keys = np.empty((count * copies, engine.dim), np.float32)
    logits = np.empty((int(is_held[positions].sum()), engine.classes), np.float32)
    of = np.empty(count * copies, np.int64)
    mirrored = np.zeros(count * copies, bool)
    making: list[Future[bytes]] = []
    sheet = np.full(count * copies, -1, np.int64)
    place = np.zeros(count * copies, np.int64)
    looks: list[Looks] = []
    done = asked = 0
    # Contact sheets are made beside the encoder: between two batches they would leave it idle.
    with ThreadPoolExecutor(1, thread_name_prefix="sheets") as pool:
        for indices, images in batches(dataset, positions, encoder.geometry, BATCH):
            seen = [images, *([np.ascontiguousarray(images[:, :, ::-1])] if mirror else [])]
            encodings = [engine.encode(seen[0]), *((encoder.mirror_engine or engine).encode(copy) for copy in seen[1:])]
            if not (finite := np.all([_finite(encoding) for encoding in encodings], axis=0)).all():
                for position in indices[~finite].tolist():
                    dataset.left_out.add(dataset.source(position), Reason.NO_KEY, "the network gives no finite numbers")
                indices, images = indices[finite], images[finite]
                seen, encodings = [copy[finite] for copy in seen], [_part(one, finite) for one in encodings]
                if not len(indices):
                    continue
            looks.append(Looks.of(images))
            for is_mirrored, (copy, encoding) in enumerate(zip(seen, encodings, strict=True)):
                rows = slice(done, done + len(indices))
                keys[rows] = encoding.keys
                of[rows], mirrored[rows] = indices, is_mirrored
                if not is_mirrored:
                    held = encoding.logits[is_held[indices]]
                    logits[asked : asked + len(held)] = held
                    asked += len(held)
                if thumbnails:
                    sheet[rows], place[rows] = len(making), np.arange(len(indices))
                    making.append(pool.submit(contact_sheet, copy))
                done += len(indices)
            progress("embed", done // copies, count)
    return EmbeddedEntries(
        keys[:done],
        of[:done],
        mirrored[:done],
        logits[:asked],
        [made.result() for made in making],
        sheet[:done],
        place[:done],
        Looks.joined(looks),
    )


def _finite(encoding: Encoding) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(encoding.keys).all(axis=1) & np.isfinite(encoding.logits).all(axis=1))


def _part(encoding: Encoding, rows: NDArray[np.bool_]) -> Encoding:
    return Encoding(*(part[rows] for part in encoding))

"""The embedding stage of an index: images in; keys, contact sheets and the holdout's logits out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.embedding import embedded_batches
from secondlook.indexer.embedding.encoders import PreparedEncoder
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.embedding.sheets import Sheets
from secondlook.indexer.embedding.spool import Spool
from secondlook.indexer.progress import Progress
from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError


@dataclass(frozen=True)
class EmbeddedEntries:
    """The entries of some images, in the order of their ids."""

    keys: Floats
    """(n,D); they lie in a file that is mapped, and cannot be written to."""
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
    kept: KeptFeatures | None = None,
    folder: Path | None = None,
) -> EmbeddedEntries:
    """Embed the images at positions (p,), BATCH at a time: the images of a batch, then their mirrored copies.

    Images for which the network gives numbers that are not finite are left out, and noted. What is ``kept`` is taken
    from there. Keys and contact sheets are put on the disk of a folder as they come (``Spool``).

    Raises:
        ParameterError: mirrored copies are asked for, and would have the same keys.
        BundleError: the folder cannot be written.
    """
    engine = encoder.engine
    kept = kept or KeptFeatures(None, engine.dim)
    if mirror and encoder.preprocess.mirrored:
        raise ParameterError(
            "the encoder takes the mean of each image and its mirrored copy, so that a mirrored copy has the same key: "
            "leave out --mirror"
        )
    count, copies = len(positions), 2 if mirror else 1
    is_held = np.zeros(len(dataset.labels), bool)
    is_held[dataset.holdout()] = True
    keys = Spool(folder)
    logits = np.empty((int(is_held[positions].sum()), engine.classes), np.float32)
    of = np.empty(count * copies, np.int64)
    mirrored = np.zeros(count * copies, bool)
    sheet = np.full(count * copies, -1, np.int64)
    place = np.zeros(count * copies, np.int64)
    looks: list[Looks] = []
    done = asked = 0
    with (
        Sheets(folder) as sheets,
        closing(
            embedded_batches(
                dataset,
                positions,
                encoder,
                kept,
                mirror_engine=encoder.mirror_engine,
                mirror=mirror,
                sheets=sheets if thumbnails else None,
            )
        ) as found,
    ):
        for batch in found:
            looks.append(batch.looks)
            for is_mirrored, copy in enumerate(batch.copies):
                rows = slice(done, done + len(batch.positions))
                keys.add(np.ascontiguousarray(copy.encoding.keys, np.float32).data)
                of[rows], mirrored[rows] = batch.positions, is_mirrored
                sheet[rows], place[rows] = copy.sheet, copy.place
                if not is_mirrored:
                    held = copy.encoding.logits[is_held[batch.positions]]
                    logits[asked : asked + len(held)] = held
                    asked += len(held)
                done += len(batch.positions)
            progress("embed", done // copies, count)
        return EmbeddedEntries(
            keys.array(np.float32, done, engine.dim),
            of[:done],
            mirrored[:done],
            logits[:asked],
            sheets.arranged(sheet[:done], place),
            sheet[:done],
            place[:done],
            Looks.joined(looks),
        )

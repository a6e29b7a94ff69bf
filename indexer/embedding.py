"""The embedding stage of an index: images in; keys, contact sheets and the holdout's logits out."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.copies import Looks
from indexer.datasets import Dataset
from indexer.embed import batches
from indexer.encoders import PreparedEncoder
from indexer.progress import Progress
from model.cache import Floats
from model.entries import contact_sheet
from model.errors import DatasetError

BATCH = 64


@dataclass(frozen=True)
class Embedded:
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


def embed(
    dataset: Dataset,
    positions: NDArray[np.int64],
    encoder: PreparedEncoder,
    progress: Progress,
    *,
    mirror: bool,
    thumbnails: bool,
) -> Embedded:
    """Embed the images at positions (p,), BATCH at a time: the images of a batch, then their mirrored copies.

    Raises:
        DatasetError: the network gives keys that are not finite.
    """
    engine = encoder.engine
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
        for indices, images in batches(dataset, positions, engine.size, BATCH):
            looks.append(Looks.of(images))
            for is_mirrored in (False, True)[:copies]:
                seen = np.ascontiguousarray(images[:, :, ::-1]) if is_mirrored else images
                encoding = (encoder.mirror_engine if is_mirrored and encoder.mirror_engine else engine).encode(seen)
                rows = slice(done, done + len(indices))
                keys[rows] = encoding.keys
                of[rows], mirrored[rows] = indices, is_mirrored
                if not is_mirrored:
                    held = encoding.logits[is_held[indices]]
                    logits[asked : asked + len(held)] = held
                    asked += len(held)
                if thumbnails:
                    sheet[rows], place[rows] = len(making), np.arange(len(indices))
                    making.append(pool.submit(contact_sheet, seen))
                done += len(indices)
            progress("embed", done // copies, count)
    if not np.isfinite(keys[:done]).all():
        raise DatasetError("the network gives keys that are not finite for some images")
    return Embedded(
        keys[:done],
        of[:done],
        mirrored[:done],
        logits[:asked],
        [made.result() for made in making],
        sheet[:done],
        place[:done],
        Looks.joined(looks),
    )

"""Labelled images as queries: what the network and a key say of each, and its look to find copies by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.embedding import EmbeddedBatch, embedded_batches
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats, Ints, new_classes
from secondlook.model.errors import DatasetError
from secondlook.model.networks.engines import ImageEncoder


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class EmbeddedQueries:
    """Labelled images as an encoder sees them."""

    logits: Floats
    """(n,C) of the network."""
    keys: Floats
    """(n,D)."""
    labels: Ints
    """(n,)."""
    looks: Looks = field(default_factory=lambda: Looks.joined([]))
    """Of each; none where nobody asks for them."""
    own: Ints = field(default_factory=_none)
    """(n,) the entry of each in the store; -1 = none. Empty = none of them has one."""
    positions: Ints = field(default_factory=_none)
    """(n,) of each in its dataset; empty where that is not known."""
    few: tuple[int, ...] = ()
    """Classes, of those of the logits, that a linear head was not fitted to (``LinearHead.few``)."""

    def new_classes(self, classes: int) -> Ints:
        """Those of so many classes that the network does not know."""
        return new_classes(self.logits.shape[1], classes, self.few)

    def part(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> EmbeddedQueries:
        """Some of them."""
        looks = self.looks[rows] if len(self.looks) else self.looks
        own, positions = (of[rows] if len(of) else of for of in (self.own, self.positions))
        return EmbeddedQueries(self.logits[rows], self.keys[rows], self.labels[rows], looks, own, positions, self.few)


def embed_queries(
    dataset: Dataset,
    positions: NDArray[np.int64],
    encoder: ImageEncoder,
    progress: Progress = silent,
    also: Callable[[NDArray[np.uint8]], None] | None = None,
    kept: KeptFeatures | None = None,
) -> EmbeddedQueries:
    """Embed the images at positions (p,) of a dataset, as they are, in order; those that cannot be read are left out.

    Each batch (b,height,width,3) is given to ``also`` too. What is ``kept`` is taken from there.

    Raises:
        DatasetError: none of them can be read.
    """
    kept = kept or KeptFeatures(None, encoder.engine.dim)
    found: list[EmbeddedBatch] = []
    done = 0
    with closing(embedded_batches(dataset, positions, encoder, kept, with_images=also is not None)) as batches:
        for batch in batches:
            if also is not None and batch.images is not None:
                also(batch.images)
            found.append(replace(batch, images=None))
            done += len(batch.positions)
            progress("embed", done, len(positions))
    if not found:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    at = np.concatenate([batch.positions for batch in found])
    encodings = [batch.copies[0].encoding for batch in found]
    return EmbeddedQueries(
        np.concatenate([encoding.logits for encoding in encodings]),
        np.concatenate([encoding.keys for encoding in encodings]),
        dataset.labels[at],
        Looks.joined([batch.looks for batch in found]),
        positions=at,
    )

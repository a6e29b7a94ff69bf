"""Labelled images that parameters are fitted on, and their nearest entries: searched for once, used by all who ask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.embed import batches
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.errors import DatasetError
from secondlook.model.manifest import Novelty
from secondlook.model.networks.engines import Engine
from secondlook.model.stores.store import Neighbors

QUERIES_AT_ONCE = 250
KEYS_AT_ONCE = 32_768
"""Keys that so many queries are compared with at a time: their similarities take 33 MB."""


@dataclass(frozen=True)
class Holdout:
    """Labelled queries that neither the network nor the entries voting on them have seen."""

    logits: Floats
    """(n,C) of the network."""
    keys: Floats
    """(n,D)."""
    labels: Ints
    """(n,)."""
    looks: Looks = field(default_factory=lambda: Looks.joined([]))
    """Of each; none where nobody asks for them."""
    own: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,) the entry of each in the store; -1 = none. Empty = none of them has one."""

    def part(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Holdout:
        """Some of them."""
        looks = self.looks[rows] if len(self.looks) else self.looks
        own = self.own[rows] if len(self.own) else self.own
        return Holdout(self.logits[rows], self.keys[rows], self.labels[rows], looks, own)


def embed_holdout(
    dataset: Dataset, positions: NDArray[np.int64], engine: Engine, progress: Progress = silent
) -> tuple[Holdout, NDArray[np.int64]]:
    """Some images of a dataset, as they are, in order; and the positions of those that were readable.

    Raises:
        DatasetError: none of them can be read.
    """
    logits: list[Floats] = []
    keys: list[Floats] = []
    done: list[NDArray[np.int64]] = []
    seen: list[Looks] = []
    for indices, images in batches(dataset, positions, engine.size, BATCH):
        encoding = engine.encode(images)
        logits.append(encoding.logits)
        keys.append(encoding.keys)
        done.append(indices)
        seen.append(Looks.of(images))
        progress("embed", sum(map(len, done)), len(positions))
    if not done:
        raise DatasetError(f"{dataset.name} ({dataset.split}) has no readable images")
    at = np.concatenate(done)
    return Holdout(np.concatenate(logits), np.concatenate(keys), dataset.labels[at], Looks.joined(seen)), at


def nearest_entries(
    served: ServedCache,
    keys: Floats,
    k: int,
    groups: Ints | None = None,
    own: Ints | None = None,
    progress: Progress = silent,
) -> Neighbors:
    """The k nearest entries of keys (n,D), by comparing with all that take part, as the store decodes them.

    Where ``groups`` (N,) are given, the group of each of the store's entries, those of a query's ``own`` (n,) are left
    out. Fewer entries than k leave ids and values of -1.
    """
    count = len(keys)
    similarities = np.full((count, k), -np.inf, np.float32)
    ids = np.full((count, k), -1, np.int64)
    values = np.full((count, k), -1, np.int64)
    done, total = 0, served.store.count
    for stored, labels in served.store.chunks():
        for start in range(0, len(stored), KEYS_AT_ONCE):
            rows = np.arange(start, min(start + KEYS_AT_ONCE, len(stored)))
            at = done + rows
            if served.mask is not None:
                kept = served.mask[at]
                rows, at = rows[kept], at[kept]
            if not len(rows):
                continue
            part = stored[rows]
            for first in range(0, count, QUERIES_AT_ONCE):
                some = slice(first, first + QUERIES_AT_ONCE)
                found = keys[some] @ part.T
                if groups is not None and own is not None:
                    found[groups[at] == own[some, None]] = -np.inf
                near = min(k, len(rows))
                places = np.argpartition(found, len(rows) - near, axis=1)[:, len(rows) - near :]
                merged = np.concatenate((similarities[some], np.take_along_axis(found, places, axis=1)), axis=1)
                new = np.where(np.isneginf(merged[:, k:]), -1, at[places])
                of = np.concatenate((values[some], np.where(new < 0, -1, labels[rows][places])), axis=1)
                which = np.concatenate((ids[some], new), axis=1)
                # Missing ones, whose similarity is -inf, stay behind all others.
                order = np.lexsort((which, -merged), axis=1)[:, :k]
                similarities[some], ids[some], values[some] = (
                    np.take_along_axis(column, order, axis=1) for column in (merged, which, of)
                )
        done += len(stored)
        progress("search", min(done, total), total)
    similarities[ids < 0] = -1.0
    return Neighbors(similarities, ids, values)


def served_votes(
    served: ServedCache,
    holdout: Holdout,
    found: Neighbors,
    parameters: Parameters,
    *,
    is_exhaustive: bool,
    novelty: Novelty | None = None,
    own: NDArray[np.float64] | None = None,
    progress: Progress = silent,
) -> Floats:
    """p_cache (n,C) of a holdout as it is served, from what was found already where a search looks at every entry.

    ``own`` (n,) is what else than neighbours speaks for its images' being known.
    """
    network = softmax(holdout.logits, served.classes)
    cache = np.empty_like(network)
    theta, _, k = parameters
    for start in range(0, len(network), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        if k is None:
            cache[rows] = served.exact_vote(holdout.keys[rows], (theta,))[0]
        elif is_exhaustive:
            cache[rows] = served.vote(found.similarities[rows, :k], found.values[rows, :k], theta)
        else:
            by_itself = own[rows] if own is not None else None
            _, cache[rows] = served.search_and_vote(holdout.keys[rows], network[rows], parameters, novelty, by_itself)
        progress("calibrate", min(start + QUERIES_AT_ONCE, len(network)), len(network))
    return cache

"""The nearest entries of a holdout, searched for once for all that is fitted on it, and votes as they are served."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.manifest import Novelty
from secondlook.model.stores.store import Neighbors

QUERIES_AT_ONCE = 250
KEYS_AT_ONCE = 32_768
"""Keys that so many queries are compared with at a time: their similarities take 33 MB."""


class Doubt(NamedTuple):
    """How images of a holdout are told from unknown ones."""

    novelty: Novelty
    directions: Floats | None
    """(C,D+1) of RMDS; None where novelty does not go by it."""
    own: NDArray[np.float64]
    """(n,) what else than neighbours speaks for each image's being known."""
    scores: NDArray[np.float64]
    """(n,) how novel each is."""


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
                places = _nearer(found, similarities[some, -1:], k)
                if not places.shape[1]:
                    continue
                nearer = np.where(places < 0, -np.inf, np.take_along_axis(found, places, axis=1))
                merged = np.concatenate((similarities[some], nearer), axis=1)
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


def _nearer(found: Floats, than: Floats, k: int) -> Ints:
    """Where in similarities (b,n) the k largest are, or all that are above those of (b,1), if none has more: (b,m).

    -1 = no place. Of many keys, hardly any is among the k nearest of those before it and itself: to look for such costs
    a fraction of a sort.
    """
    count = found.shape[1]
    is_nearer = found > than
    each = is_nearer.sum(axis=1)
    most = int(each.max(initial=0))
    if most > k:
        return np.argpartition(found, count - k, axis=1)[:, count - k :]
    rows, columns = np.nonzero(is_nearer)
    places = np.full((len(found), most), -1, np.int64)
    places[rows, np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each)] = columns
    return places


def served_votes(
    served: ServedCache,
    holdout: EmbeddedQueries,
    found: Neighbors,
    parameters: Parameters,
    *,
    is_exhaustive: bool,
    doubt: Doubt | None = None,
    progress: Progress = silent,
) -> Floats:
    """p_cache (n,C) of a holdout as it is served, from what was found already where a search looks at every entry."""
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
            novelty, own = (doubt.novelty, doubt.own[rows]) if doubt is not None else (None, None)
            _, cache[rows] = served.search_and_vote(holdout.keys[rows], network[rows], parameters, novelty, own)
        progress("calibrate", min(start + QUERIES_AT_ONCE, len(network)), len(network))
    return cache

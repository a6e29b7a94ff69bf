"""The early-exit search: neighbours are looked for only as far as the answer depends on them.

Most images lie deep within one class: their first few neighbours settle the answer, and the hundreds after them would
only confirm it. So a bundle may have an early exit: a search of a small part of its store, and a margin. Where the
first class leads the second by that margin, this answer is given, and only the others are searched for in full. Both
were fitted on the holdout, where the difference is known (``indexer.fitting.approximation``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.doubt import doubtful_above, novelty_scores
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.cache import Floats, mix, reweigh, vote
from secondlook.model.manifest import Novelty
from secondlook.model.stores.store import Neighbors, Store


def early_exit_search(
    store: Store,
    keys: Floats,
    network: Floats,
    theta: float,
    lam: float,
    k: int,
    novelty: Novelty | None = None,
    mask: NDArray[np.bool_] | None = None,
    timer: StageTimer | None = None,
    own: NDArray[np.float64] | None = None,
    class_weights: NDArray[np.float64] | None = None,
) -> tuple[Neighbors, Floats]:
    """Search and vote for keys (B,D): some of the nearest entries, and p_cache (B,C).

    The parameters must be those that the store's early exit was fitted for; network is p_net (B,C). With ``novelty``,
    an image that the first search calls novel, or doubtful, is searched for in full: more entries can only make it less
    so; ``own`` (B,) is what else speaks for their being known (``own_evidence``). The neighbours are as many as the
    first search asks for, or k where there is none. ``class_weights`` (C,) is how much an entry of each class counts;
    None = all the same.
    """
    timer = timer or StageTimer()
    classes = network.shape[1]

    def ask(hits: Neighbors) -> Floats:
        return reweigh(vote(hits.similarities, hits.values, theta, classes), class_weights)

    early_exit = store.search_info.early_exit
    if (
        early_exit is None
        or store.early_exit is None
        or classes < 2
        or (novelty is not None and novelty.neighbor > early_exit.k)
    ):
        with timer.stage("search"):
            hits = store.search(keys, k, mask)
        with timer.stage("vote"):
            return hits, ask(hits)
    with timer.stage("search"):
        hits = store.early_exit.search(keys, min(early_exit.k, k), mask)
    with timer.stage("vote"):
        cache = ask(hits)
        unsure = margins(mix(network, cache, lam)) < early_exit.margin
    if novelty is not None:
        at = min(novelty.neighbor, hits.similarities.shape[1]) - 1
        limit = min(novelty.threshold, doubtful_above(novelty.evidence))
        unsure |= novelty_scores(novelty, hits.similarities[:, at], own) > limit
    if unsure.any():
        with timer.stage("search"):
            full = store.search(keys[unsure], k, mask)
        with timer.stage("vote"):
            cache[unsure] = ask(full)
        hits.similarities[unsure] = full.similarities[:, : early_exit.k]
        hits.ids[unsure], hits.values[unsure] = full.ids[:, : early_exit.k], full.values[:, : early_exit.k]
    return hits, cache


def margins(probabilities: Floats) -> Floats:
    """The largest of each row of (B,C), C >= 2, less the second: (B,)."""
    two = np.partition(probabilities, -2, axis=1)[:, -2:]
    ahead: Floats = two[:, 1] - two[:, 0]
    return ahead

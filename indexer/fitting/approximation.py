"""What a store and k leave of the exact sum: how much of the store to search, and how far answers then are from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.neighbors import QUERIES_AT_ONCE, Doubt, served_votes
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.early_exit import margins
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, exact_vote, mix, reweigh, softmax, vote
from secondlook.model.manifest import ApproximationError, EarlyExit
from secondlook.model.stores.store import Neighbors, Store, TunableStore

S = TypeVar("S", bound=TunableStore)


@dataclass(frozen=True)
class Measured(Generic[S]):
    """A store with the search that was chosen for it, and what it answers with that."""

    store: S
    approximation_error: ApproximationError
    cache: Floats
    """p_cache (n,C) of the whole holdout, as served."""


CHANGED_PERCENT = 0.25
"""Answers that may change because a search does not look at every entry."""

VARIATION = 0.01
"""How far, in total variation and on average, answers may be from those of a search that looks at every entry."""

EARLY_CHANGED_PERCENT = 0.05
EARLY_VARIATION = 0.003
"""The same for a quick search against the full one."""

CACHE_CHANGED_PERCENT = 1.0
CACHE_VARIATION = 0.02
"""The same for what the cache says alone, of either search: where lam is small the mixture is next to the network's
answer however few entries are found, and the cache's own opinion and its neighbours are shown all the same."""

IMAGES = 2000
"""Of a larger holdout, so many are measured on: all of it would take as long as embedding a fifth of a dataset."""

LISTED_K = 200
"""Neighbours that an approximate store must find well where all entries vote and the search only lists some."""

EARLY_LISTS = (1, 2, 4, 8, 16, 32)
EARLY_K = (10, 20, 50)
MARGINS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.84, 0.87, *(percent / 100 for percent in range(89, 100)))

CALL_COST = 8
"""What a search costs before it looks into a list or keeps a candidate, in lists or candidates, roughly."""

K_COST = 0.1
"""What a neighbour more costs an IVF search, in lists, roughly: 64 took 0.22 ms for 10 neighbours, 0.32 for 200."""


def measure(
    served: ServedCache,
    store: S,
    exact_keys: Iterable[tuple[Floats, Ints]] | None,
    holdout: EmbeddedQueries,
    found: Neighbors,
    parameters: Parameters,
    doubt: Doubt | None = None,
    progress: Progress = silent,
) -> Measured[S]:
    """The store with the cheapest search that keeps to the bounds above, and its distance from the exact sum.

    The search is chosen on the same images that the distance is measured on. ``found`` are their nearest entries, all
    entries of ``served`` compared. exact_keys are chunks of the keys as embedded, with values, those that take no part
    left out; None = take them from the store. An approximate search that misses the bounds at its greatest effort is
    used at that effort.
    """
    theta, lam, k = parameters
    count = len(holdout.labels)
    some = np.sort(np.random.default_rng(0).permutation(count)[:IMAGES])
    keys, network = holdout.keys[some], softmax(holdout.logits[some], served.classes)
    exact = np.empty_like(network)
    for start in range(0, len(some), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        if exact_keys is None:
            exact[rows] = served.exact_vote(keys[rows], (theta,))[0]
        else:
            votes = exact_vote(keys[rows], exact_keys, (theta,), served.classes)[0][0]
            exact[rows] = reweigh(votes, served.class_weights)
        progress("approximation", min(start + QUERIES_AT_ONCE, len(some)), len(some))
    if not store.is_exhaustive:
        # Where all entries vote, an approximate store still finds the neighbours that are listed.
        searched = min(k or LISTED_K, served.count, found.ids.shape[1])
        whole = served.vote(found.similarities[some, :searched], found.values[some, :searched], theta)
        asked = parameters._replace(k=searched)
        store = cheapest_search(store, keys, network, asked, whole, served.mask, served.class_weights)
        served = served.with_store(store)
    cache = served_votes(
        served, holdout, found, parameters, is_exhaustive=store.is_exhaustive, doubt=doubt, progress=progress
    )
    distance = compare(mix(network, cache[some], lam), mix(network, exact, lam))
    kind = "stored" if exact_keys is None else "exact"
    return Measured(store, distance.model_copy(update={"keys": kind}), cache)


def cheapest_search(
    store: S,
    queries: Floats,
    network: Floats,
    parameters: Parameters,
    whole: Floats,
    mask: NDArray[np.bool_] | None = None,
    by_class: NDArray[np.float64] | None = None,
) -> S:
    """An approximate store with the cheapest search whose answers keep to the bounds above, with a quick one before it.

    ``whole`` are the votes p_cache (n,C) of a search that looks at every entry. A store that misses the bounds at its
    greatest effort comes back at that effort.
    """
    theta, lam, k = parameters
    assert k is not None

    def voted(settings: Store, k: int) -> Floats:
        found = settings.search(queries, k, mask)
        votes = vote(found.similarities, found.values, theta, network.shape[1])
        return reweigh(votes, by_class)

    def keeps_to(cache: Floats, to: Floats, changed_percent: float, variation: float) -> bool:
        lost, alone = compare(mix(network, cache, lam), mix(network, to, lam)), compare(cache, to)
        return (
            lost.changed_top1_percent <= changed_percent
            and lost.mean <= variation
            and alone.changed_top1_percent <= CACHE_CHANGED_PERCENT
            and alone.mean <= CACHE_VARIATION
        )

    full = whole
    for settings in store.search_settings():
        store = store.with_search(settings)
        full = voted(store, k)
        if keeps_to(full, whole, CHANGED_PERCENT, VARIATION):
            break
    if network.shape[1] < 2:
        return store
    info = store.search_info
    best, whole_cost = None, _cost(info.lists, info.candidates, k)
    cheapest = whole_cost
    for early_exit in _early_exits(info.lists, k):
        tried = store.with_search(info.model_copy(update={"early_exit": early_exit})).early_exit
        if tried is None:  # not one that can be searched quickly
            break
        quick = voted(tried, early_exit.k)
        ahead = margins(mix(network, quick, lam))
        for margin in MARGINS:
            sure = ahead >= margin
            if keeps_to(np.where(sure[:, None], quick, full), full, EARLY_CHANGED_PERCENT, EARLY_VARIATION):
                cost = (
                    _cost(early_exit.lists, early_exit.candidates, early_exit.k) + float(1 - sure.mean()) * whole_cost
                )
                if cost < cheapest:
                    best, cheapest = early_exit.model_copy(update={"margin": margin}), cost
                break
    return store.with_search(info.model_copy(update={"early_exit": best}))


def _early_exits(lists: int | None, k: int) -> list[EarlyExit]:
    ks = [few for few in EARLY_K if few < k]
    if lists is not None:
        return [EarlyExit(lists=few, k=some, margin=1) for few in EARLY_LISTS if few < lists for some in ks or [k]]
    return [EarlyExit(candidates=few, k=few, margin=1) for few in ks]


def _cost(lists: int | None, candidates: int | None, k: int) -> float:
    return CALL_COST + (lists + K_COST * k if lists is not None else max(candidates or 0, k))


def compare(answers: Floats, exact: Floats) -> ApproximationError:
    """Total variation between two sets of probabilities (n,C), and how many top classes differ."""
    variation = 0.5 * np.abs(answers - exact).sum(axis=1, dtype=np.float64)
    return ApproximationError(
        images=len(answers),
        keys="exact",
        mean=float(variation.mean()),
        p99=float(np.quantile(variation, 0.99)),
        max=float(variation.max()),
        changed_top1_percent=100.0 * float((answers.argmax(axis=1) != exact.argmax(axis=1)).mean()),
    )

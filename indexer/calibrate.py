"""What the holdout says of the answers as they are served: how honest they are, and how far to trust each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.fit import QUERIES_AT_ONCE, Holdout, entries_less, nearest
from indexer.progress import Progress, silent
from model.cache import Floats, Ints, exact_vote, mix, softmax, vote
from model.doubt import energies, ranked
from model.lookup import vote_until_sure
from model.manifest import Calibration, Novelty
from model.metrics import ece_percent
from model.predictor import Parameters
from model.stores import TunableStore


def calibrate(
    store: TunableStore,
    holdout: Holdout,
    held_entries: NDArray[np.bool_],
    parameters: Parameters,
    classes: int,
    novelty: Novelty,
    progress: Progress = silent,
) -> Calibration:
    """What is to be known of answers under these parameters, held_entries (N,) of the store taking no part in them."""
    theta, lam, k = parameters
    network = softmax(holdout.logits, classes)
    cache = np.empty_like(network)
    whole = entries_less(store, held_entries) if k is None or store.is_exhaustive else None
    for start in range(0, len(network), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        queries = holdout.keys[rows]
        if k is None:
            assert whole is not None
            cache[rows] = exact_vote(queries, [whole], (theta,), classes)[0][0]
        elif whole is not None:
            cache[rows] = vote(*nearest(queries, *whole, min(k, len(whole[1]))), theta, classes)
        else:
            energy = energies(holdout.logits[rows], network[rows])
            _, cache[rows] = vote_until_sure(
                store, queries, network[rows], theta, lam, k, novelty, among=~held_entries, energies=energy
            )
        progress("calibrate", min(start + QUERIES_AT_ONCE, len(network)), len(network))
    mixed = mix(network, cache, lam)
    return Calibration(
        novelty=novelty,
        ece_percent_network=ece_percent(network, holdout.labels),
        ece_percent_mixed=ece_percent(mixed, holdout.labels),
        sets=ranked(1.0 - _of_labels(mixed, holdout.labels)),
        credibility=ranked(1.0 - _of_labels(cache, holdout.labels)),
    )


def similarities(store: TunableStore, keys: Floats, k: int, among: NDArray[np.bool_] | None = None) -> Floats:
    """Of the k nearest entries of keys (n,D), of those marked in among (N,): (n,k), descending."""
    whole = entries_less(store, ~among) if among is not None and store.is_exhaustive else None
    found = []
    for start in range(0, len(keys), QUERIES_AT_ONCE):
        queries = keys[start : start + QUERIES_AT_ONCE]
        found.append(
            store.search(queries, k, among).similarities
            if whole is None
            else nearest(queries, *whole, min(k, len(whole[1])))[0]
        )
    return np.concatenate(found)


def _of_labels(probabilities: Floats, labels: Ints) -> NDArray[np.float64]:
    return probabilities[np.arange(len(labels)), labels].astype(np.float64)

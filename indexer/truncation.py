"""What a store and k leave of the exact sum: how much of the store to search, and how far answers then are from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from indexer.fit import QUERIES_AT_ONCE, Holdout, entries_less, nearest
from indexer.progress import Progress, silent
from model.cache import Floats, Ints, exact_vote, mix, softmax, vote
from model.manifest import Truncation
from model.predictor import Parameters
from model.stores import FaissStore, Neighbors

CHANGED_PERCENT = 0.1
"""Answers of the holdout that may change because a search does not look at every entry."""

MEAN_VARIATION = 0.001
"""How far, in total variation and on average, answers may be from those of a search that looks at every entry."""


def measure(
    store: FaissStore,
    exact_keys: Iterable[tuple[Floats, Ints]] | None,
    holdout: Holdout,
    held_entries: NDArray[np.bool_],
    parameters: Parameters,
    classes: int,
    progress: Progress = silent,
) -> tuple[FaissStore, Truncation]:
    """The store with the cheapest search that keeps to the bounds above, and its distance from the exact sum.

    exact_keys are chunks of the keys as embedded, with values, those of held_entries (N,) left out; None = take them
    from the store. An approximate search that misses the bounds at its greatest effort is used at that effort.
    """
    theta, lam, k = parameters
    network = softmax(holdout.logits)
    keys, values = entries_less(store, held_entries)
    exact = np.empty_like(network)
    whole = np.empty_like(network)
    for start in range(0, len(network), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        queries = holdout.keys[rows]
        chunks = [(keys, values)] if exact_keys is None else exact_keys
        exact[rows] = exact_vote(queries, chunks, (theta,), classes)[0][0]
        if k is None:
            whole[rows] = exact_vote(queries, [(keys, values)], (theta,), classes)[0][0]
        else:
            whole[rows] = vote(*nearest(queries, keys, values, min(k, len(values))), theta, classes)
        progress("truncation", min(start + QUERIES_AT_ONCE, len(network)), len(network))
    answers = mix(network, whole, lam)
    if k is not None and not store.is_exhaustive:

        def answer(found: Neighbors) -> Floats:
            return mix(network, vote(found.similarities, found.values, theta, classes), lam)

        store, answers = least_effort(store, holdout.keys, k, answer, answers, among=~held_entries)
    kind = "stored" if exact_keys is None else "exact"
    return store, compare(answers, mix(network, exact, lam)).model_copy(update={"keys": kind})


def least_effort(
    store: FaissStore,
    queries: Floats,
    k: int,
    answer: Callable[[Neighbors], Floats],
    whole: Floats,
    among: NDArray[np.bool_] | None = None,
) -> tuple[FaissStore, Floats]:
    """The store with the cheapest search whose answers keep to the bounds above, and those answers (n,C).

    ``whole`` are the answers of a search that looks at every entry. A store that misses the bounds at its greatest
    effort comes back at that effort.
    """
    for effort in store.efforts():
        store = store.with_search(effort)
        answers = answer(store.search(queries, k, among))
        lost = compare(answers, whole)
        if lost.changed_top1_percent <= CHANGED_PERCENT and lost.mean <= MEAN_VARIATION:
            break
    return store, answers


def compare(answers: Floats, exact: Floats) -> Truncation:
    """Total variation between two sets of probabilities (n,C), and how many top classes differ."""
    variation = 0.5 * np.abs(answers - exact).sum(axis=1, dtype=np.float64)
    return Truncation(
        images=len(answers),
        keys="exact",
        mean=float(variation.mean()),
        p99=float(np.quantile(variation, 0.99)),
        max=float(variation.max()),
        changed_top1_percent=100.0 * float((answers.argmax(axis=1) != exact.argmax(axis=1)).mean()),
    )

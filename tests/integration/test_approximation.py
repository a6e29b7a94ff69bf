"""What a store leaves of the exact sum is measured, not assumed."""

import numpy as np
import pytest

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.approximation import (
    CACHE_CHANGED_PERCENT,
    CACHE_VARIATION,
    CHANGED_PERCENT,
    EARLY_CHANGED_PERCENT,
    EARLY_VARIATION,
    VARIATION,
    cheapest_search,
    compare,
    measure,
)
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.model.answering.early_exit import early_exit_search, margins
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import mix, softmax, vote
from secondlook.model.manifest import ApproximationError
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.store import ExactStore

CLASSES = 5


def clusters(seed: int, count: int, dim: int = 16, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Unit keys around one direction for each class, with room for confusion."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, dim))
    values = random.integers(0, CLASSES, count)
    keys = centres[values] + noise * random.normal(size=(count, dim))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32), values


KEYS, VALUES = clusters(0, 2000)
HELD = np.arange(2000) >= 1800
LOGITS = np.random.default_rng(5).normal(size=(200, CLASSES)).astype(np.float32)
HOLDOUT = EmbeddedQueries(LOGITS, KEYS[HELD], VALUES[HELD])
REST = [(KEYS[~HELD], VALUES[~HELD])]


def measured(
    store: FaissStore, exact: list[tuple[np.ndarray, np.ndarray]] | None, parameters: Parameters
) -> tuple[FaissStore, ApproximationError]:
    """By images that are in the store themselves, and take no part."""
    served = ServedCache.of(store, CLASSES, CLASSES, HELD)
    found = nearest_entries(served, HOLDOUT.keys, parameters.k or 200)
    result = measure(served, store, exact, HOLDOUT, found, parameters)
    return result.store, result.approximation_error


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "SQ4", "IVF32,SQ8", "HNSW16"])
def test_the_measured_distance_is_that_of_the_served_answers(factory: str) -> None:
    theta, lam, k = parameters = Parameters(15.0, 0.7, 20)
    store, found = measured(FaissStore.build(KEYS, VALUES, factory), REST, parameters)
    # Once more, by other means: what is served, and the exact sum written out.
    neighbors, cache = early_exit_search(store, HOLDOUT.keys, softmax(LOGITS), theta, lam, k, mask=~HELD)
    assert not np.isin(neighbors.ids, np.flatnonzero(HELD)).any()
    answers = mix(softmax(LOGITS), cache, lam)
    weights = np.exp(theta * (HOLDOUT.keys @ KEYS[~HELD].T).astype(np.float64))
    votes = weights @ np.eye(CLASSES)[VALUES[~HELD]]
    exact = mix(softmax(LOGITS), (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32), lam)
    variation = np.abs(answers - exact).sum(axis=1) / 2
    assert found.images == 200
    assert found.keys == "exact"
    assert found.mean == pytest.approx(variation.mean(), abs=1e-3)
    assert found.max == pytest.approx(variation.max(), abs=1e-2)
    assert found.mean < found.p99 <= found.max
    assert found.changed_top1_percent == pytest.approx(
        100 * (answers.argmax(axis=1) != exact.argmax(axis=1)).mean(), abs=1.0
    )


def test_no_more_of_a_store_is_searched_than_the_bounds_ask_for() -> None:
    parameters = Parameters(40.0, 1.0, 20)
    theta, k = 40.0, 20
    built = FaissStore.build(KEYS, VALUES, "IVF32,Flat")
    store, _ = measured(built, None, parameters)
    whole = ExactStore(KEYS[~HELD], VALUES[~HELD]).search(HOLDOUT.keys, k)
    expected = vote(whole.similarities, whole.values, theta, CLASSES)
    search_settings = built.search_settings()
    chosen = search_settings.index(store.search_info.model_copy(update={"early_exit": None}))
    assert chosen > 0
    for settings, enough in ((search_settings[chosen], True), (search_settings[chosen - 1], False)):
        found = built.with_search(settings).search(HOLDOUT.keys, k, ~HELD)
        lost = compare(vote(found.similarities, found.values, theta, CLASSES), expected)
        assert (lost.changed_top1_percent <= CHANGED_PERCENT and lost.mean <= VARIATION) == enough


def test_a_quick_search_is_kept_only_where_it_changes_next_to_nothing() -> None:
    theta, lam, k = 30.0, 0.5, 100
    keys, values = clusters(7, 8000, noise=0.8)
    queries, labels = clusters(8, 1000, noise=0.8)
    network = softmax(6 * np.eye(CLASSES, dtype=np.float32)[labels])
    built = FaissStore.build(keys, values, "IVF128,Flat")
    found = ExactStore(keys, values).search(queries, k)
    votes = vote(found.similarities, found.values, theta, CLASSES)
    whole = mix(network, votes, lam)
    store = cheapest_search(built, queries, network, Parameters(theta, lam, k), votes)
    early_exit = store.search_info.early_exit
    assert early_exit is not None
    assert early_exit.lists is not None
    assert store.search_info.lists is not None
    assert early_exit.lists < store.search_info.lists
    _, cache = early_exit_search(store, queries, network, theta, lam, k)
    assert store.early_exit is not None
    settled = store.early_exit.search(queries, early_exit.k)
    sure = margins(mix(network, vote(settled.similarities, settled.values, theta, CLASSES), lam)) >= early_exit.margin
    assert sure.mean() > 0.3
    lost = compare(mix(network, cache, lam), whole)
    assert lost.changed_top1_percent <= CHANGED_PERCENT + EARLY_CHANGED_PERCENT
    assert lost.mean <= VARIATION + EARLY_VARIATION


@pytest.mark.parametrize("lam", [0.0, 0.1])
def test_what_the_cache_says_alone_is_searched_for_however_little_it_counts(lam: float) -> None:
    theta, k = 30.0, 25
    keys, values = clusters(7, 1000)
    queries, labels = clusters(8, 500)
    network = softmax(6 * np.eye(CLASSES, dtype=np.float32)[labels])
    whole = ExactStore(keys, values).search(queries, k)
    votes = vote(whole.similarities, whole.values, theta, CLASSES)
    built = FaissStore.build(keys, values, "IVF16,SQ8")
    store = cheapest_search(built, queries, network, Parameters(theta, lam, k), votes)
    _, served = early_exit_search(store, queries, network, theta, lam, k)
    lost = compare(served, votes)
    assert lost.changed_top1_percent <= 2 * CACHE_CHANGED_PERCENT
    assert lost.mean <= 2 * CACHE_VARIATION


def test_the_exact_sum_itself_loses_nothing_but_quantisation() -> None:
    parameters = Parameters(15.0, 1.0, None)
    _, flat = measured(FaissStore.build(KEYS, VALUES, "Flat"), REST, parameters)
    _, coarse = measured(FaissStore.build(KEYS, VALUES, "SQ4"), REST, parameters)
    assert flat.max < 1e-5 < coarse.mean

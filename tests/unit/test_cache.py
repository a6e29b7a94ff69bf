"""The cache's arithmetic, on random inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secondlook.model.answering.predictor import Overrides
from secondlook.model.cache import (
    check_parameters,
    class_weights,
    exact_vote,
    mix,
    new_classes,
    reweigh,
    softmax,
    vote,
    weights,
)
from secondlook.model.errors import ParameterError
from secondlook.model.stores.store import ExactStore

CLASSES = 5
seeds = st.integers(0, 2**32 - 1)
thetas = st.floats(0.1, 500.0)
lams = st.floats(0.0, 1.0)


def entries(seed: int, count: int = 40, dim: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    keys = random.normal(size=(count, dim)).astype(np.float32)
    queries = random.normal(size=(7, dim)).astype(np.float32)
    for vectors in (keys, queries):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return queries, keys, random.integers(0, CLASSES, count)


def by_the_formula(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, theta: float) -> np.ndarray:
    """Equation 1, one query and one class at a time, in float64."""
    out = np.zeros((len(queries), CLASSES))
    for b, query in enumerate(queries.astype(np.float64)):
        similarities = keys.astype(np.float64) @ query
        raw = np.exp(theta * (similarities - similarities.max()))
        for y in range(CLASSES):
            out[b, y] = raw[values == y].sum() / raw.sum()
    return out


@given(seeds, thetas)
def test_exact_vote_is_the_formula(seed: int, theta: float) -> None:
    queries, keys, values = entries(seed)
    votes, _, _ = exact_vote(queries, [(keys[:13], values[:13]), (keys[13:], values[13:])], (theta, 1.0), CLASSES)
    np.testing.assert_allclose(votes[0], by_the_formula(queries, keys, values, theta), atol=2e-4)
    np.testing.assert_allclose(votes[1], by_the_formula(queries, keys, values, 1.0), atol=2e-5)


@given(seeds, thetas)
def test_all_neighbours_vote_as_the_exact_sum(seed: int, theta: float) -> None:
    queries, keys, values = entries(seed)
    found = ExactStore(keys, values).search(queries, len(keys) + 3)
    exact, totals, top = exact_vote(queries, [(keys, values)], (theta,), CLASSES)
    np.testing.assert_allclose(vote(found.similarities, found.values, theta, CLASSES), exact[0], atol=2e-4)
    np.testing.assert_allclose(top, found.similarities[:, 0], atol=1e-6)
    relative = np.exp(theta * (found.similarities[:, 0] - found.similarities[:, 0])) / totals[0]
    np.testing.assert_allclose(weights(found.similarities, found.values, theta)[:, 0], relative, rtol=1e-3)


@given(seeds, thetas, lams)
def test_the_mixture_is_a_distribution_between_its_parts(seed: int, theta: float, lam: float) -> None:
    queries, keys, values = entries(seed)
    network = softmax(np.random.default_rng(seed).normal(0, 5, (len(queries), CLASSES)).astype(np.float32))
    found = ExactStore(keys, values).search(queries, 10)
    cache = vote(found.similarities, found.values, theta, CLASSES)
    mixed = mix(network, cache, lam)
    np.testing.assert_allclose(mixed.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(mix(network, cache, 0.0), network)
    np.testing.assert_array_equal(mix(network, cache, 1.0), cache)
    assert (mixed >= np.minimum(network, cache) - 1e-6).all()
    assert (mixed <= np.maximum(network, cache) + 1e-6).all()


@given(seeds, thetas)
def test_the_order_of_entries_does_not_matter(seed: int, theta: float) -> None:
    queries, keys, values = entries(seed)
    order = np.random.default_rng(seed + 1).permutation(len(keys))
    one, *_ = exact_vote(queries, [(keys, values)], (theta,), CLASSES)
    other, *_ = exact_vote(queries, [(keys[order], values[order])], (theta,), CLASSES)
    np.testing.assert_allclose(one, other, atol=1e-4)


@given(seeds, thetas)
def test_duplicating_every_entry_changes_nothing(seed: int, theta: float) -> None:
    queries, keys, values = entries(seed)
    one, *_ = exact_vote(queries, [(keys, values)], (theta,), CLASSES)
    two, *_ = exact_vote(queries, [(keys, values), (keys, values)], (theta,), CLASSES)
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_many_perfect_matches_do_not_overflow() -> None:
    similarities = np.ones((1, 1000), np.float32)
    cache = vote(similarities, np.repeat([0, 1], 500)[None], 85.6, 2)
    np.testing.assert_allclose(cache, [[0.5, 0.5]])


def test_a_missing_entry_has_no_weight_and_picks_no_class() -> None:
    similarities = np.array([[0.9, -np.inf]], np.float32)
    cache = vote(similarities, np.array([[1, -1]]), 10.0, 3)
    np.testing.assert_array_equal(cache, [[0, 1, 0]])


def test_without_a_head_the_cache_speaks_alone_and_without_entries_all_classes_are_as_likely() -> None:
    network = softmax(np.empty((2, 0), np.float32), 4)
    assert not network.any()
    cache = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(mix(network, cache, 1.0), [[0.5, 0.5, 0, 0], [0.25] * 4])


def test_without_any_entry_the_network_speaks_alone() -> None:
    network = np.array([[0.2, 0.8]], np.float32)
    cache = vote(np.array([[-np.inf]], np.float32), np.array([[-1]]), 10.0, 2)
    np.testing.assert_array_equal(mix(network, cache, 0.7), network)


@given(arrays(np.float32, (3, 4), elements=st.floats(-80, 80, width=32)))
def test_softmax_survives_large_logits(logits: np.ndarray) -> None:
    np.testing.assert_allclose(softmax(logits * 10).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("theta", "lam", "k", "named"),
    [
        (0.0, 0.5, 1, "theta"),
        (float("nan"), 0.5, 1, "theta"),
        (float("inf"), 0.5, 1, "theta"),
        (1.0, 1.1, 1, "lam"),
        (1.0, float("nan"), 1, "lam"),
        (1.0, 0.5, 0, "k"),
    ],
)
def test_parameters_without_meaning_are_refused(theta: float, lam: float, k: int, named: str) -> None:
    with pytest.raises(ParameterError, match=f"^{named} must"):
        check_parameters(theta, lam, k)
    with pytest.raises(ParameterError, match=f"^{named} must"):
        Overrides(theta, lam, k)


def test_a_taught_class_votes_as_one_of_usual_size() -> None:
    by_class = class_weights(np.array([100, 300, 5, 400, 0]), 2)
    assert by_class is not None
    np.testing.assert_allclose(by_class, [1, 1, 40, 1, 200])
    assert class_weights(np.array([100, 300]), 2) is None
    of_taught_alone = class_weights(np.array([20, 1, 0]), 0)
    assert of_taught_alone is not None
    np.testing.assert_allclose(of_taught_alone, [1, 10.5, 10.5])
    assert class_weights(np.array([], np.int64), 0) is None
    assert class_weights(np.array([0, 0]), 0) is None
    cache = np.array([[0.5, 0.4, 0.1, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    found = reweigh(cache, by_class)
    np.testing.assert_allclose(found, [np.array([0.5, 0.4, 4, 0, 0]) / 4.9, np.zeros(5)], rtol=1e-6)
    assert reweigh(cache, None) is cache


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.49, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("few", [(), (1,)], ids=["the last", "one among the first"])
def test_classes_that_the_network_does_not_know_have_half_of_the_cache_at_least(
    lam: float, few: tuple[int, ...]
) -> None:
    random = np.random.default_rng(3)
    network = np.pad(random.dirichlet(np.ones(4), 50), ((0, 0), (0, 2)))
    network[:, list(few)] = 0
    network = (network / network.sum(axis=1, keepdims=True)).astype(np.float32)
    cache = random.dirichlet(np.ones(6), 50).astype(np.float32)
    cache[0] = 0  # no entry voted
    new = new_classes(4, 6, few)
    assert new.tolist() == [*few, 4, 5]
    plain, mixed = mix(network, cache, lam), mix(network, cache, lam, new)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, new], max(lam, 0.5) * cache[:, new], atol=1e-6)
    told = np.setdiff1d(np.arange(6), new)
    np.testing.assert_allclose(mixed[:, told] * plain[:, :1], plain[:, told] * mixed[:, :1], atol=1e-6)  # in proportion
    np.testing.assert_array_equal(mixed[0], network[0])
    for none in (None, new_classes(0, 6), new_classes(6, 6)):
        np.testing.assert_array_equal(mix(network, cache, lam, none), plain)

"""Which entries decide an answer: taking their votes away gives another, taking fewer does not."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.model.answering.decisive import decisive
from secondlook.model.cache import mix, vote, weights

CLASSES = 3


def without(network: np.ndarray, similarities: np.ndarray, values: np.ndarray, lam: float, left_out: list[int]) -> int:
    """The class that wins where some entries do not vote, counted anew from the others."""
    kept = np.delete(np.arange(len(values)), left_out)
    cache = vote(similarities[None, kept], values[None, kept], 10.0, CLASSES)
    return int(mix(network[None], cache, lam)[0].argmax())


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 8))
    values = random.choice(CLASSES, count, p=[0.6, 0.3, 0.1])
    similarities = np.sort(random.uniform(0.4, 1, count).astype(np.float32))[::-1]
    return random.dirichlet(np.ones(CLASSES)).astype(np.float32), similarities, values, draw(st.floats(0.05, 1))


@given(cases())
def test_they_are_the_fewest_that_change_the_answer(case: tuple[np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    network, similarities, values, lam = case
    cache = vote(similarities[None], values[None], 10.0, CLASSES)[0]
    shares = weights(similarities[None], values[None], 10.0)[0]
    winner = int(mix(network[None], cache[None], lam)[0].argmax())
    found = decisive(network, cache, lam, winner, values, shares)
    own = [i for i in range(len(values)) if values[i] == winner]
    fewest = next(
        (
            size
            for size in range(1, len(own) + 1)
            for some in combinations(own, size)
            if without(network, similarities, values, lam, list(some)) != winner
        ),
        None,
    )
    if found is None:
        assert fewest is None
        return
    assert len(found.places) == fewest
    assert found.instead == without(network, similarities, values, lam, found.places) != winner
    assert found.places == own[: len(found.places)]  # the nearest, which are the heaviest


def test_only_listed_entries_count() -> None:
    network = np.array([0.6, 0.4], np.float32)
    cache, values, shares = np.array([0.9, 0.1], np.float32), np.array([0, 0, 1]), np.array([0.5, 0.4, 0.1])
    assert decisive(network, cache, 1.0, 0, values[:1], shares[:1]) is None
    assert decisive(network, cache, 1.0, 0, values, shares) == ([0, 1], 1)


def test_entries_beyond_k_decide_nothing() -> None:
    found = decisive(np.float32([0.5, 0.5]), np.float32([1, 0]), 1.0, 0, np.array([0, 0]), np.array([1.0, 0.0]))
    assert found is None  # none is left, and the network says the first of equals


@pytest.mark.parametrize("values", [np.array([], np.int64), np.array([1, 1])])
def test_without_entries_of_the_winner_there_are_none(values: np.ndarray) -> None:
    shares = np.full(len(values), 0.1)
    assert decisive(np.float32([1, 0]), np.float32([0.3, 0.7]), 0.2, 0, values, shares) is None

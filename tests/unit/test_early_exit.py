"""A quick search settles what it is sure of; the rest is searched for in full."""

import numpy as np
import pytest

from secondlook.model.answering.early_exit import early_exit_search, margins
from secondlook.model.cache import mix, vote
from secondlook.model.manifest import EarlyExit, Novelty, SearchInfo
from secondlook.model.stores.faiss_store import FaissStore

RANDOM = np.random.default_rng(0)
KEYS = RANDOM.normal(size=(800, 16)).astype(np.float32)
KEYS /= np.linalg.norm(KEYS, axis=1, keepdims=True)
VALUES = RANDOM.integers(0, 3, 800)
QUERIES = KEYS[::20] + 0.1 * RANDOM.normal(size=(40, 16)).astype(np.float32)
NETWORK = RANDOM.dirichlet(np.ones(3), 40).astype(np.float32)
STORE = FaissStore.build(KEYS, VALUES, "IVF16,Flat")
FULL = STORE.with_search(SearchInfo(lists=16)).search(QUERIES, 30)


def with_margin(margin: float) -> FaissStore:
    return STORE.with_search(SearchInfo(lists=16, early_exit=EarlyExit(lists=1, k=5, margin=margin)))


@pytest.mark.parametrize("margin", [0.0, 0.4, 1.0])
def test_rows_that_lead_by_the_margin_keep_their_quick_neighbours(margin: float) -> None:
    found, cache = early_exit_search(with_margin(margin), QUERIES, NETWORK, 20.0, 0.5, 30)
    quick = STORE.with_search(SearchInfo(lists=1)).search(QUERIES, 5)
    quick_votes = vote(quick.similarities, quick.values, 20.0, 3)
    full_votes = vote(FULL.similarities, FULL.values, 20.0, 3)
    again = margins(mix(NETWORK, quick_votes, 0.5)) < margin
    assert again.sum() == {0.0: 0, 1.0: 40}.get(margin, again.sum())
    assert found.ids.shape == (40, 5)
    np.testing.assert_array_equal(found.ids, np.where(again[:, None], FULL.ids[:, :5], quick.ids))
    np.testing.assert_array_equal(found.values, np.where(found.ids >= 0, VALUES[found.ids], -1))
    np.testing.assert_allclose(cache, np.where(again[:, None], full_votes, quick_votes), atol=1e-6)
    if margin == 0.4:
        assert 0 < again.sum() < 40


def test_what_looks_novel_is_searched_for_in_full() -> None:
    novelty = Novelty(neighbor=3, threshold=-1.0, false_alarm_rate=0.01)
    found, _ = early_exit_search(with_margin(0.0), QUERIES, NETWORK, 20.0, 0.5, 30, novelty)
    np.testing.assert_array_equal(found.ids, FULL.ids[:, :5])


def test_without_a_quick_search_all_is_searched_for_in_full() -> None:
    found, _ = early_exit_search(STORE.with_search(SearchInfo(lists=16)), QUERIES, NETWORK, 20.0, 0.5, 30)
    np.testing.assert_array_equal(found.ids, FULL.ids)


def test_the_lead_is_that_of_the_first_over_the_second() -> None:
    found = margins(np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]], np.float32))
    np.testing.assert_allclose(found, [0.5, 0.0], atol=1e-7)

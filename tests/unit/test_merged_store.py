"""A store with keys beside it, entries left out and others relabelled, against one index of all that is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.model.cache import exact_vote, vote
from secondlook.model.manifest import EarlyExit, SearchInfo
from secondlook.model.stores.added_keys import FIRST_ID as FIRST
from secondlook.model.stores.added_keys import AddedKeys, Copies
from secondlook.model.stores.corrections import REMOVED, Corrections
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.merged_store import MergedStore
from secondlook.model.stores.store import ExactStore, Store

CLASSES = 4


def unit(rng: np.random.Generator, count: int, dim: int = 6) -> np.ndarray:
    keys = rng.standard_normal((count, dim)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


class Case:
    """A base of ``count`` entries with some changes, and the same as one index."""

    def __init__(self, seed: int, count: int, added: int, removed: int, relabelled: int, factory: str) -> None:
        rng = np.random.default_rng(seed)
        keys, values = unit(rng, count), rng.integers(0, CLASSES, count)
        base: Store = ExactStore(keys, values) if factory == "exact" else FaissStore.build(keys, values, factory)
        more, labels = unit(rng, added), rng.integers(0, CLASSES + 1, added)
        ids = FIRST + 2 * np.arange(added)
        # Codes of labels are not their classes: here they are those backwards.
        class_of = np.arange(CLASSES + 1)[::-1].copy()
        beside = AddedKeys(more.shape[1])
        for n in range(added):
            beside = beside.changed({n: Copies(int(class_of[labels[n]]), ids[n : n + 1], more[n : n + 1])})
        # Some are removed again, and others relabelled.
        gone = {n: None for n in range(added) if rng.random() < 0.2}
        others = {n: int(rng.integers(0, CLASSES + 1)) for n in range(added) if n not in gone and rng.random() < 0.2}
        beside = beside.changed({**gone, **{n: int(class_of[label]) for n, label in others.items()}})
        for n, label in others.items():
            labels[n] = label
        stay = np.array([n not in gone for n in range(added)], bool)
        shuffled = rng.permutation(count)
        left_out, other = shuffled[:removed].tolist(), shuffled[removed : removed + relabelled].tolist()
        now = rng.integers(0, CLASSES + 1, len(other))
        corrections = Corrections().changed(dict.fromkeys(left_out, REMOVED))
        corrections = corrections.changed(dict(zip(other, class_of[now].tolist(), strict=True)))
        self.store = MergedStore(base, beside, corrections, class_of)
        values[other] = now
        kept = np.setdiff1d(np.arange(count), left_out)
        self.ids = np.concatenate((kept, ids[stay]))
        self.whole = ExactStore(np.concatenate((keys[kept], more[stay])), np.concatenate((values[kept], labels[stay])))
        self.queries = unit(rng, 5)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**16),
    count=st.integers(1, 40),
    added=st.integers(0, 30),
    removed=st.integers(0, 40),
    relabelled=st.integers(0, 5),
    factory=st.sampled_from(["exact", "Flat", "HNSW32"]),
)


@given(case=cases, k=st.integers(1, 60))
def test_it_finds_what_one_index_of_the_same_entries_finds(case: Case, k: int) -> None:
    found, wanted = case.store.search(case.queries, k), case.whole.search(case.queries, k)
    np.testing.assert_allclose(found.similarities, wanted.similarities, atol=1e-5)
    assert found.ids.shape == (len(case.queries), k)
    named = wanted.ids >= 0
    np.testing.assert_array_equal(found.ids >= 0, named)
    ids = np.where(named, case.ids[np.maximum(wanted.ids, 0)] if len(case.ids) else -1, -1)
    # Near-ties may swap places between an index and its reference.
    assert (found.ids == ids).mean() > 0.9
    by_id = dict(zip(case.ids.tolist(), case.whole.values.tolist(), strict=True))
    assert [by_id.get(i, -1) for i in found.ids.ravel().tolist()] == found.values.ravel().tolist()
    np.testing.assert_allclose(
        vote(found.similarities, found.values, 20.0, CLASSES + 1),
        vote(wanted.similarities, wanted.values, 20.0, CLASSES + 1),
        atol=1e-4,
    )


@given(case=cases, k=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_part_of_it_is_searched_as_one_index_of_that_part(case: Case, k: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random(len(case.ids)) < 0.6
    if not mask.any():
        return
    found = case.store.search(case.queries, k, mask)
    wanted = case.whole.search(case.queries, k, mask)
    np.testing.assert_allclose(found.similarities, wanted.similarities, atol=1e-5)
    assert np.isin(found.ids, [-1, *case.ids[mask]]).all()
    np.testing.assert_array_equal(found.ids >= 0, wanted.ids >= 0)


@given(case=cases)
def test_all_its_entries_vote_as_those_of_one_index(case: Case) -> None:
    if not len(case.ids):
        assert list(case.store.chunks()) == []
        assert not exact_vote(case.queries, case.store.chunks(), (20.0,), CLASSES)[0].any()
        return
    assert case.store.ids.tolist() == case.ids.tolist()
    assert case.store.values.tolist() == case.whole.values.tolist()
    assert case.store.count == case.whole.count
    ours, theirs = (
        exact_vote(case.queries, store.chunks(), (20.0,), CLASSES + 1)[0] for store in (case.store, case.whole)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("factory", ["Flat", "PQ2x4", "IVF2,Flat", "HNSW32"])
def test_k_is_kept_where_the_nearest_are_all_removed(factory: str) -> None:
    rng = np.random.default_rng(0)
    keys = unit(rng, 700)
    store = FaissStore.build(keys, np.zeros(700, np.int64), factory).with_search(SearchInfo(lists=2, candidates=700))
    query = keys[:1]
    nearest = store.search(query, 300).ids[0]
    corrections = Corrections().changed(dict.fromkeys(nearest.tolist(), REMOVED))
    left = MergedStore(store, AddedKeys(6), corrections, np.zeros(1, np.int64))
    found = left.search(query, 100)
    assert (found.ids >= 0).all()
    assert not np.isin(found.ids, nearest).any()
    assert found.similarities[0, 0] <= store.search(query, 300).similarities[0, -1] + 1e-6


def test_a_quick_search_has_the_added_keys_too() -> None:
    rng = np.random.default_rng(1)
    base = FaissStore.build(unit(rng, 400), np.zeros(400, np.int64), "IVF4,Flat")
    base = base.with_search(SearchInfo(lists=4, early_exit=EarlyExit(lists=1, k=5, margin=0.5)))
    key = unit(rng, 1)
    store = MergedStore(base, AddedKeys.of(np.array([FIRST]), np.array([1]), key), Corrections(), np.arange(2))
    assert store.early_exit is not None
    assert store.early_exit.search(key, 5).ids[0, 0] == store.search(key, 5).ids[0, 0] == FIRST
    assert store.early_exit.search_info.early_exit is None
    assert store.search(key, 5, np.arange(401) < 400).ids.max() < 400

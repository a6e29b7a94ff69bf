"""The same tests over every store, against the exact reference."""

from collections.abc import Callable

import numpy as np
import pytest

from model.errors import StoreError
from model.stores import ExactStore, FaissStore, Store

Make = Callable[[np.ndarray, np.ndarray], Store]


@pytest.fixture(params=["exact", "Flat", "SQfp16", "SQ8"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "exact":
        return ExactStore
    return lambda keys, values: FaissStore.build(keys, values, request.param)


def unit(seed: int, count: int, dim: int = 24) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


KEYS = unit(0, 500)
VALUES = np.random.default_rng(1).integers(0, 7, 500)


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_neighbours_are_those_of_the_reference(make: Make, batch: int) -> None:
    queries = unit(2, batch)
    found, expected = make(KEYS, VALUES).search(queries, 12), ExactStore(KEYS, VALUES).search(queries, 12)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-2)
    np.testing.assert_array_equal(found.values, VALUES[found.ids])
    shared = [len(set(a) & set(b)) for a, b in zip(found.ids, expected.ids, strict=True)]
    assert np.mean(shared) >= 11.5


def test_ties_are_in_id_order(make: Make) -> None:
    found = make(np.repeat(KEYS[:4], 5, axis=0), np.arange(20)).search(KEYS[:1], 5)
    assert found.ids[0].tolist() == [0, 1, 2, 3, 4]


def test_places_without_an_entry_are_marked(make: Make) -> None:
    found = make(KEYS[:3], VALUES[:3]).search(KEYS[:2], 5)
    assert found.ids[:, 3:].tolist() == found.values[:, 3:].tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(found.similarities[:, 3:]).all()


def test_chunks_hold_every_key_in_id_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.stores.CHUNK_BYTES", 100 * 24 * 4)
    chunks = list(make(KEYS, VALUES).chunks())
    assert len(chunks) == 5
    np.testing.assert_allclose(np.concatenate([keys for keys, _ in chunks]), KEYS, atol=5e-3)
    np.testing.assert_array_equal(np.concatenate([values for _, values in chunks]), VALUES)


@pytest.mark.parametrize(
    ("factory", "count", "why"),
    [
        ("Fat", 500, "there is no store 'Fat'"),
        ("IVF4,Flat", 500, "there is no store"),
        ("PQ8", 50, "cannot be trained on 50"),
    ],
)
def test_a_store_that_cannot_be_is_refused(factory: str, count: int, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        FaissStore.build(KEYS[:count], VALUES[:count], factory)

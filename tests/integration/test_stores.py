"""The same tests over every store, against the exact reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from secondlook.indexer.progress import silent
from secondlook.model.bundles.root import new_generation
from secondlook.model.errors import StoreError
from secondlook.model.stores.faiss_store import FaissStore, bytes_per_entry
from secondlook.model.stores.milvus_store import MilvusStore
from secondlook.model.stores.store import ExactStore, Store
from secondlook.model.stores.torch_store import TorchStore
from tests.memory_for_tests import mapped

TORCH_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Make = Callable[[np.ndarray, np.ndarray], Store]


BUILT: dict[bytes, MilvusStore] = {}
"""By their keys: it takes seconds."""


@pytest.fixture(
    params=["exact", "torch", "milvus", *("Flat", "SQfp16", "SQ8", "IVF8,Flat", "IVF8,SQ8", "IVF8,SQ8,RFlat", "HNSW16")]
)
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "milvus":
        connected = request.getfixturevalue("milvus").connect()

        def keep(keys: np.ndarray, values: np.ndarray) -> Store:
            given = keys.tobytes() + values.tobytes()
            if given not in BUILT:
                BUILT[given] = MilvusStore.build(connected, new_generation(), keys, values, "FLAT", silent)
            built = BUILT[given]
            return MilvusStore(connected, built.collection, values, built.dim, built.factory)

        return keep
    if request.param == "exact":
        return ExactStore
    if request.param == "torch":
        return lambda keys, values: TorchStore(ExactStore(keys, values), TORCH_DEVICE)

    def build(keys: np.ndarray, values: np.ndarray) -> Store:
        # The few keys of some tests are enough for a single list alone.
        factory = request.param if len(keys) >= 39 * 8 else request.param.replace("IVF8", "IVF1")
        store = FaissStore.build(keys, values, factory)
        return store.with_search(store.search_settings()[-1]) if store.search_settings() else store

    return build


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
    found = make(np.repeat(KEYS[:10], 5, axis=0), np.arange(50)).search(KEYS[:1], 5)
    assert found.ids[0].tolist() == [0, 1, 2, 3, 4]


def test_places_without_an_entry_are_marked(make: Make) -> None:
    found = make(KEYS[:40], VALUES[:40]).search(KEYS[:2], 42)
    assert found.ids[:, 40:].tolist() == found.values[:, 40:].tolist() == [[-1, -1], [-1, -1]]
    assert (found.ids[:, :40] >= 0).all()
    assert np.isneginf(found.similarities[:, 40:]).all()


def test_chunks_hold_every_key_in_id_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.model.stores.store.CHUNK_BYTES", 100 * 24 * 4)
    chunks = list(make(KEYS, VALUES).chunks())
    assert len(chunks) == 5
    np.testing.assert_allclose(np.concatenate([keys for keys, _ in chunks]), KEYS, atol=5e-3)
    np.testing.assert_array_equal(np.concatenate([values for _, values in chunks]), VALUES)


def test_a_search_among_some_entries_is_one_of_those_alone(make: Make) -> None:
    queries, mask = unit(3, 20), np.arange(len(KEYS)) % 3 != 0
    found = make(KEYS, VALUES).search(queries, 8, mask)
    expected = ExactStore(KEYS[mask], VALUES[mask]).search(queries, 8)
    assert mask[found.ids].all()
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-2)


def test_more_effort_finds_more() -> None:
    store = FaissStore.build(KEYS, VALUES, "IVF8,Flat")
    expected = ExactStore(KEYS, VALUES).search(unit(4, 50), 10).ids
    found = [store.with_search(settings).search(unit(4, 50), 10).ids for settings in store.search_settings()]
    shared = [np.mean([len(set(a) & set(b)) for a, b in zip(ids, expected, strict=True)]) for ids in found]
    assert shared == sorted(shared)
    assert shared[0] < 6
    assert shared[-1] == 10


@pytest.mark.parametrize(
    ("factory", "count", "why"),
    [
        ("Fat", 500, "there is no store 'Fat'"),
        ("IVF4,Flat,Fat", 500, "there is no store"),
        ("IVF16,Flat", 500, "cannot be trained on 500 entries, it needs 624"),
        ("PQ8", 50, "cannot be trained on 50"),
        ("OPQ7,PQ7x4", 500, "FAISS cannot make the store"),
        ("PQ7x4", 500, "FAISS cannot make the store"),
        # FAISS ends the process for these.
        ("HNSW0", 500, "there is no store"),
        ("HNSW1", 500, "there is no store"),
        ("PQ8x0", 500, "there is no store"),
        ("IVF0,Flat", 500, "there is no store"),
        ("OPQ0,PQ4x4", 500, "there is no store"),
    ],
)
def test_a_store_that_cannot_be_is_refused(factory: str, count: int, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        FaissStore.build(KEYS[:count], VALUES[:count], factory)


@pytest.mark.parametrize(
    "factory", ["Flat", "SQfp16", "SQ8", "PQ8x4", "IVF8,Flat", "IVF8,SQ8", "IVF8,SQ8,RFlat", "HNSW16"]
)
def test_a_mapped_store_answers_the_same_and_has_no_copy_of_the_keys(factory: str, tmp_path: Path) -> None:
    keys = unit(5, 8000)
    values = np.arange(len(keys)) % 7
    path = tmp_path / f"{factory}.faiss"
    FaissStore.build(keys, values, factory).write(path)
    read, shared = (FaissStore.read(path, values, factory, mapped=is_mapped) for is_mapped in (False, True))
    read, shared = (
        one.with_search(one.search_settings()[2]) if one.search_settings() else one for one in (read, shared)
    )
    path.unlink()  # as pruning does
    for ours, theirs in zip(shared.search(keys[:50], 10), read.search(keys[:50], 10), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for (ours, _), (theirs, _) in zip(shared.chunks(), read.chunks(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # All but what is small beside the keys, such as links and centroids.
    in_file = mapped("self", path.name)
    assert in_file["Anonymous"] == 0
    assert in_file["Rss"] * 1024 > 0.8 * shared.stored_bytes()


@pytest.mark.parametrize(
    ("factory", "size"),
    [
        ("Flat", 256),
        ("SQ8", 64),
        ("SQ4", 32),
        ("SQfp16", 128),
        ("PQ16", 16),
        ("IVF8,SQ8", 64 + 8),
        ("IVF8,Flat", 256 + 8),
        ("OPQ16,IVF8,PQ16", 16 + 8),
        ("IVF8,PQ16,RFlat", 16 + 8 + 256),
        ("IVF8,PQ16,Refine(SQ8)", 16 + 8 + 64),
        ("HNSW16,SQ8", 64 + 4 * 32 + 16),
    ],
)
def test_what_a_key_takes_is_known_before_there_is_one(factory: str, size: int) -> None:
    for _ in range(20):  # an index that is freed too soon is seldom seen at once
        assert bytes_per_entry(factory, 64) == size
    if "PQ" not in factory:  # of so few keys its codebook would be most
        count = 5000
        keys = np.random.default_rng(0).normal(size=(count, 64)).astype(np.float32)
        stored = FaissStore.build(keys, np.zeros(count, np.int64), factory).stored_bytes()
        assert stored == pytest.approx(size * count, rel=0.1)


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "SQ8", "HNSW8,SQ8", "IVF4,Flat", "IVF4,SQ8", "IVF4,SQ8,RFlat"])
def test_a_key_that_is_not_finite_is_found_though_it_be_a_code(factory: str) -> None:
    keys = unit(0, 700)
    values = np.zeros(700, np.int64)
    store = FaissStore.build(keys, values, factory)
    assert store.is_finite()
    part: Any = faiss.downcast_index(store._index)
    part = faiss.downcast_index(getattr(part, "storage", None) or getattr(part, "refine_index", None) or part)
    if hasattr(part, "sq") and part.sq.trained.size():
        ranges = faiss.vector_to_array(part.sq.trained)
        ranges[3] = np.inf
        faiss.copy_array_to_vector(ranges, part.sq.trained)
    else:
        keys[7, 3] = np.inf
        store._index.add(keys)
        store = FaissStore(store._index, np.zeros(1400, np.int64), factory)
    assert not np.isfinite(np.concatenate([some for some, _ in store.chunks()])).all()
    assert not store.is_finite()

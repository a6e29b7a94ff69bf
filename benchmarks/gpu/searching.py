"""Exact search by PyTorch on the device, held to numpy's, and how many queries a second each answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from benchmarks.gpu.subjects import keys
from secondlook.evaluation.timing import repeated
from secondlook.model.cache import Floats, Ints, vote
from secondlook.model.stores.store import ExactStore, Neighbors
from secondlook.model.stores.torch_store import TorchStore

SIZES, QUICK_SIZES = (50_000, 1_000_000), (2_000, 5_000)
DIM, K, THETA, CLASSES = 256, 200, 20.0, 100
BATCHES = (1, 16, 128)
ASKED = 32
NOISE = 3.0
"""In a query, beside the key it is made of: that one hardly stands out, and many entries vote."""
SIMILARITY, VOTE, SHARED = 2e-3, 0.02, 0.97
"""How far similarities and votes may differ, and what share of neighbours must be the same: a GPU's are float16."""


def searching(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """By number of entries."""
    for count in QUICK_SIZES if plan.quick else SIZES:
        name = f"{count:,} entries"
        if clock.left < count / 50_000:
            yield LeftOut(name, "its time was over")
            continue
        yield _search(name, count, plan)


def _search(name: str, count: int, plan: Plan) -> Found:
    own, random = keys(count, DIM, 0), np.random.default_rng(1)
    values = random.integers(0, CLASSES, count)
    queries = own[random.integers(0, count, max(BATCHES))] + NOISE * keys(max(BATCHES), DIM, 2)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = ExactStore(own, values)
    store = TorchStore(exact, plan.device)
    expected, found = exact.search(queries[:ASKED], K), store.search(queries[:ASKED], K)
    similarity = float(np.abs(found.similarities - expected.similarities).max())
    shared = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.ids, expected.ids, strict=True)]))
    votes = float(np.abs(_vote(found) - _vote(expected)).max())
    is_same = _vote(found).argmax(axis=1) == _vote(expected).argmax(axis=1)
    amiss = [
        text
        for text, is_amiss in (
            (f"similarities differ by {similarity:.2g}", not similarity <= SIMILARITY),
            (f"{100 * shared:.1f} % of the neighbours are the same", not shared >= SHARED),
            (f"votes differ by {votes:.2g}", not votes <= VOTE),
        )
        if is_amiss
    ]
    rates: dict[str, dict[str, float]] = {"numpy": {}, plan.device: {}}
    for batch in BATCHES[:2] if plan.quick else BATCHES:
        some = queries[:batch]
        store.search(some, K)
        for engine, work in (
            (plan.device, lambda some=some: store.search(some, K)),
            ("numpy", lambda some=some: _numpy(own, values, some)),
        ):
            rates[engine][str(batch)] = batch / float(np.median(repeated(work, plan.seconds)))
    return Found(
        name,
        {
            "dim": DIM,
            "k": K,
            "similarities_within": similarity,
            "same_neighbours_percent": 100 * shared,
            "votes_within": votes,
            "same_first_class_percent": 100 * float(is_same.mean()),
            "queries_per_second": rates,
        },
        not amiss,
        "; ".join(amiss),
    )


def _vote(hits: Neighbors) -> Floats:
    return vote(hits.similarities, hits.values, THETA, CLASSES)


def _numpy(own: Floats, values: Ints, queries: Floats) -> Ints:
    """Labels of the k nearest, as numpy finds them soonest: sorted are only those."""
    similarities = queries @ own.T
    nearest = np.argpartition(-similarities, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(similarities, nearest, 1), axis=1)
    return np.asarray(values[np.take_along_axis(nearest, order, 1)])

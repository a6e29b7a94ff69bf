"""Stores at several sizes: what they cost beside the network, and what they lose beside the exact sum.

The keys of the smaller sizes are those of real images. Beyond the number of real ones, each is repeated with a little
noise (``JITTER``), so those entries lie closer together than as many different images would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from evaluation.benchmarks.timing import median_ms, seconds
from indexer.fit import nearest
from indexer.progress import Progress, silent
from indexer.truncation import compare, least_effort
from model.cache import Floats, Ints, exact_vote, mix, softmax, vote
from model.engines import Encoding
from model.predictor import Parameters
from model.stores import FaissStore, Neighbors, choose_store

JITTER = 0.2
"""Length of the noise added to a repeated key, before it is brought back to unit length."""

QUERIES = 1000
CHUNK = 50


@dataclass(frozen=True)
class StoreResult:
    """One store at one size."""

    factory: str
    entries: int
    is_auto: bool
    """Whether this is what ``--store auto`` takes at this size."""
    effort: str
    """How much of it is searched, chosen as ``index`` chooses it."""
    build_seconds: float
    bytes_per_entry: float
    recall_percent: float
    """Share of the k nearest entries found."""
    changed_top1_percent: float
    """Against the exact sum over all entries."""
    mean_variation: float
    one_ms: float
    """Search and vote of one query alone."""
    many_ms: float
    """The same for each query of 32."""
    one_over_encode: float
    many_over_encode: float
    one_over_floor: float
    """Time of one query over that of reading the codes it looked at once from memory."""


def spread(keys: Floats, values: Ints, count: int) -> tuple[Floats, Ints]:
    """Count keys and values: the first ones, or all of them over and over with noise."""
    if count <= len(keys):
        return keys[:count], values[:count]
    random = np.random.default_rng(0)
    found = np.empty((count, keys.shape[1]), np.float32)
    for start in range(0, count, len(keys)):
        part = found[start : start + len(keys)]
        part[:] = keys[: len(part)]
        if start:
            noise = random.standard_normal(part.shape, np.float32)
            part += noise * np.float32(JITTER / np.sqrt(keys.shape[1]))
            part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found, np.resize(values, count)


def stores(
    keys: Floats,
    values: Ints,
    queries: Encoding,
    factories: tuple[str, ...],
    parameters: Parameters,
    encode_ms: tuple[float, float],
    read_bytes_per_second: float,
    progress: Progress = silent,
) -> list[StoreResult]:
    """Measure each of the factory strings (``auto`` among them) over keys (N,D), with queries that are not among them.

    ``encode_ms`` is the network's own time for an image alone and in a batch of 32.
    """
    theta, lam, k = parameters
    k = min(k or 200, len(keys))
    asked = Encoding(queries.logits[:QUERIES], queries.keys[:QUERIES])
    network = softmax(asked.logits)
    classes = network.shape[1]
    exact, whole = np.empty_like(network), np.empty_like(network)
    true = np.empty((len(network), k), np.float32)
    for start in range(0, len(network), CHUNK):
        rows = slice(start, start + CHUNK)
        exact[rows] = exact_vote(asked.keys[rows], [(keys, values)], (theta,), classes)[0][0]
        true[rows], found_values = nearest(asked.keys[rows], keys, values, k)
        whole[rows] = vote(true[rows], found_values, theta, classes)
        progress("exact sum", min(start + CHUNK, len(network)), len(network))
    exact, whole = mix(network, exact, lam), mix(network, whole, lam)

    def answer(found: Neighbors) -> Floats:
        return mix(network, vote(found.similarities, found.values, theta, classes), lam)

    auto = choose_store(len(keys), keys.shape[1])[0]
    wanted = list(dict.fromkeys(auto if factory == "auto" else factory for factory in factories))
    results = []
    for done, factory in enumerate(wanted):
        progress(f"stores of {len(keys):,}", done, len(wanted))
        built: list[FaissStore] = []
        took = seconds(lambda f=factory, b=built: b.append(FaissStore.build(keys, values, f)))  # type: ignore[misc]
        store = built[0]
        if store.is_exhaustive:
            answers = answer(store.search(asked.keys, k))
        else:
            store, answers = least_effort(store, asked.keys, k, answer, whole)
        lost = compare(answers, exact)
        ids = store.search(asked.keys, k).ids
        recall = _recall(asked.keys, keys, ids, true[:, -1])
        one = median_ms(_rotating(store, asked.keys, k, 1, theta, classes), 2.0)
        many = median_ms(_rotating(store, asked.keys, k, 32, theta, classes), 2.0) / 32
        size = store.stored_bytes() / len(keys)
        results.append(
            StoreResult(
                factory=factory,
                entries=len(keys),
                is_auto=factory == auto,
                effort=" ".join(f"{n}={v}" for n, v in store.search_info.model_dump(exclude_none=True).items()),
                build_seconds=took,
                bytes_per_entry=size,
                recall_percent=recall,
                changed_top1_percent=lost.changed_top1_percent,
                mean_variation=lost.mean,
                one_ms=one,
                many_ms=many,
                one_over_encode=one / encode_ms[0],
                many_over_encode=many / encode_ms[1],
                one_over_floor=one / (1000 * _looked_at(store, asked.keys, k) * size / read_bytes_per_second),
            )
        )
    progress(f"stores of {len(keys):,}", len(wanted), len(wanted))
    return results


def _rotating(
    store: FaissStore, queries: Floats, k: int, batch: int, theta: float, classes: int
) -> Callable[[], object]:
    """Search and vote, each call for other queries, so that caches hold no more than in use."""
    at = 0

    def call() -> None:
        nonlocal at
        at = (at + batch) % (len(queries) - batch + 1)
        found = store.search(queries[at : at + batch], k)
        vote(found.similarities, found.values, theta, classes)

    return call


def _recall(queries: Floats, keys: Floats, ids: NDArray[np.int64], kth: Floats) -> float:
    """Share of found entries that are at least as similar as the k-th nearest, in percent."""
    found = np.einsum("nd,nkd->nk", queries[:200], keys[np.maximum(ids[:200], 0)])
    found[ids[:200] < 0] = -np.inf
    return 100.0 * float((found >= kth[:200, None] - 1e-6).mean())


def _looked_at(store: FaissStore, queries: Floats, k: int) -> float:
    """Entries whose codes one search reads, on average."""
    if store.is_exhaustive:
        return float(store.count)
    counters: Any = faiss.cvar
    statistics = counters.indexIVF_stats if store.search_info.lists else counters.hnsw_stats
    statistics.reset()
    store.search(queries[:100], k)
    return float(statistics.ndis) / 100

"""Stores at several sizes: what they cost beside the network, and what they lose beside the exact sum.

The keys of the smaller sizes are those of real images. Beyond the number of real ones, each is repeated with a little
noise (``JITTER``), so those entries lie closer together than as many different images would.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.timing import median_ms, repeated, seconds
from secondlook.indexer.fitting.approximation import cheapest_search, compare
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.early_exit import early_exit_search, margins
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, exact_vote, mix, softmax, vote
from secondlook.model.manifest import SearchInfo
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.factory import choose_store
from secondlook.model.stores.faiss_store import FaissStore

JITTER = 0.2
"""Length of the noise added to a repeated key, before it is brought back to unit length."""

QUERIES = 2000
"""Images asked for: the first half chooses how stores are searched, the second half is reported on."""

CHUNK = 50


@dataclass(frozen=True)
class StoreResult:
    """One store at one size."""

    factory: str
    entries: int
    is_auto: bool
    """Whether this is what ``--store auto`` takes at this size."""
    search_settings: str
    """How much of it is searched, chosen as ``index`` chooses it."""
    searched_again_percent: float
    """Queries that a quick search did not settle; 100 where there is none."""
    build_seconds: float
    build_processor_seconds: float
    bytes_per_entry: float
    recall_percent: float
    """Share of the k nearest entries that a full search finds."""
    changed_top1_percent: float
    """Against the exact sum over all entries."""
    changed_among_nearest_percent: float
    """Against the vote of the k nearest of all entries, so that only store and search are to blame."""
    mean_variation: float
    one_ms: float
    """Search, vote and mixture of one query alone, on average."""
    one_processor_ms: float
    """The same, of the processor: what other work on the machine hardly changes."""
    many_ms: float
    """The same for each query of 32."""
    many_processor_ms: float
    one_over_encode: float
    many_over_encode: float
    one_over_floor: float
    """Time of one query over that of reading, once and from memory, the codes that it looked at."""


@dataclass(frozen=True)
class FlatResult:
    """Flat search in FAISS's own loop and through BLAS, milliseconds for a query."""

    entries: int
    dim: int
    batch: int
    loop_ms: float
    blas_ms: float


def flat_search(keys: Floats, queries: Floats, k: int = 200, for_seconds: float = 0.5) -> list[FlatResult]:
    """Measure both ways of flat search at several batch sizes: where ``stores.BLAS_FROM_QUERIES`` comes from."""
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    settings: Any = faiss.cvar
    before = settings.distance_compute_blas_threshold
    results = []
    try:
        for batch in (1, 2, 4, 8, 16, 32):
            times = []
            # FAISS takes BLAS where batch x D reaches the threshold.
            for threshold in (2**31 - 1, 1):
                settings.distance_compute_blas_threshold = threshold
                times.append(median_ms(lambda b=batch: index.search(queries[:b], k), for_seconds) / batch)  # type: ignore[misc]
            results.append(FlatResult(len(keys), keys.shape[1], batch, *times))
    finally:
        settings.distance_compute_blas_threshold = before
    return results


def resized(keys: Floats, values: Ints, count: int) -> tuple[Floats, Ints]:
    """Make ``count`` keys and values: the first ones, or all of them over and over with noise."""
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
    for_seconds: float = 2.0,
    progress: Progress = silent,
) -> list[StoreResult]:
    """Measure each of the factory strings (``auto`` among them) over keys (N,D), with queries that are not among them.

    ``encode_ms`` is the network's own time for an image alone and in a batch of 32.
    """
    parameters = parameters._replace(k=min(parameters.k or 200, len(keys)))
    theta, lam, k = parameters
    assert k is not None
    half = len(queries.keys) // 2
    tune, asked = (Encoding(queries.logits[part], queries.keys[part]) for part in (slice(half), slice(half, None)))
    network = softmax(asked.logits)
    classes = network.shape[1]
    exact, of_nearest = np.empty_like(network), np.empty_like(network)
    kth = np.empty(len(network), np.float32)
    for start in range(0, len(network), CHUNK):
        rows = slice(start, start + CHUNK)
        similarities = asked.keys[rows] @ keys.T
        near = np.argpartition(similarities, len(keys) - k, axis=1)[:, len(keys) - k :]
        found = np.take_along_axis(similarities, near, axis=1)
        kth[rows] = found.min(axis=1)
        of_nearest[rows] = vote(found, values[near], theta, classes)
        exact[rows] = exact_vote(asked.keys[rows], [(keys, values)], (theta,), classes)[0][0]
        progress("exact sum", min(start + CHUNK, len(network)), len(network))
    exact, of_nearest = mix(network, exact, lam), mix(network, of_nearest, lam)
    auto = choose_store(len(keys), keys.shape[1])[0]
    wanted = list(dict.fromkeys(auto if factory == "auto" else factory for factory in factories))
    results = []
    for done, factory in enumerate(wanted):
        progress(f"stores of {len(keys):,}", done, len(wanted))
        built: list[FaissStore] = []
        used = time.process_time()
        took = seconds(lambda f=factory, b=built: b.append(FaissStore.build(keys, values, f)))  # type: ignore[misc]
        used = time.process_time() - used
        store = built[0]
        if not store.is_exhaustive:
            store = _tuned(store, tune, parameters)
        answers = mix(network, early_exit_search(store, asked.keys, network, theta, lam, k)[1], lam)
        lost = compare(answers, exact)
        ids = store.search(asked.keys, k).ids
        recall = _recall(asked.keys, keys, ids, kth)
        one, one_used = _cost(store, asked.keys, network, parameters, 1, for_seconds)
        many, many_used = _cost(store, asked.keys, network, parameters, 32, for_seconds)
        size = store.stored_bytes() / len(keys)
        floor = 1000 * _looked_at(store, asked.keys, network, parameters) * size / read_bytes_per_second
        results.append(
            StoreResult(
                factory=factory,
                entries=len(keys),
                is_auto=factory == auto,
                search_settings=_settings(store.search_info),
                searched_again_percent=100.0 * _searched_again(store, asked.keys, network, theta, lam),
                build_seconds=took,
                build_processor_seconds=used,
                bytes_per_entry=size,
                recall_percent=recall,
                changed_top1_percent=lost.changed_top1_percent,
                changed_among_nearest_percent=compare(answers, of_nearest).changed_top1_percent,
                mean_variation=lost.mean,
                one_ms=one,
                one_processor_ms=one_used,
                many_ms=many,
                many_processor_ms=many_used,
                one_over_encode=one / encode_ms[0],
                many_over_encode=many / encode_ms[1],
                one_over_floor=one / floor,
            )
        )
    progress(f"stores of {len(keys):,}", len(wanted), len(wanted))
    return results


def _cost(
    store: FaissStore, queries: Floats, network: Floats, parameters: Parameters, batch: int, for_seconds: float
) -> tuple[float, float]:
    """Mean milliseconds of search, vote and mixture for a query, and those of the processor.

    Over different ones, as some cost more than others.
    """
    theta, lam, k = parameters
    assert k is not None
    starts = range(0, min(len(queries), 40 * batch if batch > 1 else 400) - batch + 1, batch)

    def call() -> None:
        for start in starts:
            rows = slice(start, start + batch)
            mix(network[rows], early_exit_search(store, queries[rows], network[rows], theta, lam, k)[1], lam)

    call()
    used = time.process_time()
    times = repeated(call, for_seconds)
    used = (time.process_time() - used) / len(times)
    each = len(starts) * batch
    return 1000 * float(np.median(times)) / each, 1000 * used / each


def _settings(info: SearchInfo) -> str:
    early_exit = (
        f"{info.early_exit.lists or info.early_exit.candidates} until {info.early_exit.margin:g}, "
        if info.early_exit
        else ""
    )
    return f"{early_exit}{info.lists or info.candidates or 'all'}"


def _searched_again(store: FaissStore, queries: Floats, network: Floats, theta: float, lam: float) -> float:
    early_exit = store.search_info.early_exit
    if early_exit is None or store.early_exit is None:
        return 1.0
    found = store.early_exit.search(queries, early_exit.k)
    mixed = mix(network, vote(found.similarities, found.values, theta, network.shape[1]), lam)
    return float((margins(mixed) < early_exit.margin).mean())


def _recall(queries: Floats, keys: Floats, ids: NDArray[np.int64], kth: Floats) -> float:
    """Share of found entries that are at least as similar as the k-th nearest, in percent."""
    found = np.einsum("nd,nkd->nk", queries[:200], keys[np.maximum(ids[:200], 0)])
    found[ids[:200] < 0] = -np.inf
    return 100.0 * float((found >= kth[:200, None] - 1e-6).mean())


def _looked_at(store: FaissStore, queries: Floats, network: Floats, parameters: Parameters) -> float:
    """Entries whose codes an answer reads, on average."""
    if store.is_exhaustive:
        return float(store.count)
    theta, lam, k = parameters
    assert k is not None
    counters: Any = faiss.cvar
    statistics = counters.indexIVF_stats if store.search_info.lists else counters.hnsw_stats
    statistics.reset()
    early_exit_search(store, queries, network, theta, lam, k)
    return float(statistics.ndis) / len(queries)


def _tuned(store: FaissStore, queries: Encoding, parameters: Parameters) -> FaissStore:
    """The store searched as ``index`` would have it searched, chosen on other queries than those reported on."""
    theta, _, k = parameters
    assert k is not None
    network = softmax(queries.logits)
    found = nearest_entries(ServedCache(store, network.shape[1]), queries.keys, k)
    whole = vote(found.similarities, found.values, theta, network.shape[1])
    return cheapest_search(store, queries.keys, network, parameters, whole)

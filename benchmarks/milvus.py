"""Keys in Milvus beside the same keys in FAISS here, each with the same index and search settings, in one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from secondlook.evaluation.timing import median_ms, seconds
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.root import new_generation
from secondlook.model.cache import Floats, Ints, mix, softmax, vote
from secondlook.model.manifest import SearchInfo
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.milvus_server import Milvus
from secondlook.model.stores.milvus_store import MilvusStore
from secondlook.model.stores.store import ExactStore, TunableStore

BATCHES = (1, 32, 64)
"""Queries in one search."""
COMPARED = 10_000
COMPARED_PAIRS = 500_000_000
"""Answers compared with those of the exact search, and of them and entries together, at most: it sorts all of them."""
HNSW_ENTRIES = 100_000
"""Up to so many, a graph is built too: beyond, that takes long on few cores."""
AT_ONCE = 250
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class MilvusResult:
    """One index over keys of one size; times are medians of whole searches, in milliseconds."""

    index: str
    entries: int
    dim: int
    k: int
    search_settings: str
    milvus_build_seconds: float
    """From the first key sent to the last check."""
    faiss_build_seconds: float
    milvus_ms: dict[int, float] = field(default_factory=dict)
    """By the number of queries."""
    faiss_ms: dict[int, float] = field(default_factory=dict)
    answers: int = 0
    """Compared with those of an exact search for the same k."""
    same_top1: int = 0
    largest_difference: float = 0.0
    """Of a similarity from the exact search's at the same place."""
    recall_percent: float = 0.0
    """Of the k nearest."""

    def as_dict(self) -> dict[str, object]:
        """For JSON, ratios included."""
        ratios = {batch: took / self.faiss_ms[batch] for batch, took in self.milvus_ms.items()}
        return {**asdict(self), "milvus_over_faiss": ratios}


def milvus_search(
    milvus: Milvus,
    keys: Floats,
    values: Ints,
    queries: Encoding,
    parameters: Parameters,
    for_seconds: float,
    progress: Progress = silent,
) -> Iterator[MilvusResult]:
    """Measure over keys (N,D) with queries that are not among them; what is put into Milvus is dropped after.

    Raises:
        StoreUnreachableError, StoreError: the server does not answer, or refuses.
    """
    # What is measured is how long a search takes, and not whether that would do.
    milvus = Milvus(milvus.settings.model_copy(update={"timeout_s": PATIENCE_SECONDS}))
    k = min(parameters.k or 200, len(keys))
    network = softmax(queries.logits)
    theta, lam = parameters.theta, parameters.lam
    expected = ExactStore(keys, values)
    for milvus_factory, faiss_factory, search in _pairs(len(keys), k):
        here: list[TunableStore] = []
        there: list[MilvusStore] = []
        faiss_took = seconds(lambda f=faiss_factory, h=here: h.append(FaissStore.build(keys, values, f)))  # type: ignore[misc]
        milvus_took = seconds(
            lambda f=milvus_factory, t=there: t.append(  # type: ignore[misc]
                MilvusStore.build(milvus, new_generation(), keys, values, f, progress)
            )
        )
        store, beside = there[0].with_search(search), here[0].with_search(search)
        try:
            times = [
                {
                    batch: median_ms(lambda s=one, b=batch: s.search(queries.keys[:b], k), for_seconds)  # type: ignore[misc]
                    for batch in BATCHES
                }
                for one in (store, beside)
            ]
            most = COMPARED if store.is_exhaustive else COMPARED // 5
            same, shared, largest, asked = 0, 0, 0.0, min(len(queries.keys), most, COMPARED_PAIRS // len(keys))
            for start in range(0, asked, AT_ONCE):
                rows = slice(start, min(start + AT_ONCE, asked))
                found, exact = (one.search(queries.keys[rows], k) for one in (store, expected))
                ours, theirs = (
                    mix(network[rows], vote(n.similarities, n.values, theta, network.shape[1]), lam).argmax(axis=1)
                    for n in (found, exact)
                )
                same += int((ours == theirs).sum())
                shared += sum(len(np.intersect1d(a, b)) for a, b in zip(found.ids, exact.ids, strict=True))
                there_are = found.ids >= 0
                difference = np.abs(found.similarities[there_are] - exact.similarities[there_are])
                largest = max(largest, float(difference.max()))
                progress(f"answers of {milvus_factory}", rows.stop, asked)
        finally:
            there[0].drop()
        settings = search.model_dump(exclude_none=True)
        yield MilvusResult(
            index=milvus_factory,
            entries=len(keys),
            dim=keys.shape[1],
            k=k,
            search_settings=", ".join(f"{name} {value}" for name, value in settings.items()),
            milvus_build_seconds=milvus_took,
            faiss_build_seconds=faiss_took,
            milvus_ms=times[0],
            faiss_ms=times[1],
            answers=asked,
            same_top1=same,
            largest_difference=largest,
            recall_percent=100.0 * shared / (asked * k),
        )


def _pairs(count: int, k: int) -> Iterator[tuple[str, str, SearchInfo]]:
    """The same index in Milvus and in FAISS, and how both are searched."""
    yield "FLAT", "Flat", SearchInfo()
    lists = 2 ** round(np.log2(2 * np.sqrt(count)))
    yield f"IVF_FLAT,{lists}", f"IVF{lists},Flat", SearchInfo(lists=max(1, lists // 16))
    if count <= HNSW_ENTRIES:
        yield "HNSW,32", "HNSW32", SearchInfo(candidates=2 * k)

"""One run of the benchmarks that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engines import engines, first, index_build
from benchmarks.milvus import COMPARED, milvus_search
from benchmarks.on_ray import embedding
from benchmarks.report import Report
from benchmarks.serve import serve
from benchmarks.stages import stages
from benchmarks.stores import CHUNK, QUERIES, flat_search, spread, stores
from benchmarks.taught import merged, taught
from benchmarks.votes import votes
from secondlook.evaluation.timing import machine, median_ms
from secondlook.indexer.datasets.datasets import ArrayDataset, load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.memory import check_memory
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import DatasetError, ParameterError, StoreError
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.factory import check_trainable
from secondlook.model.stores.faiss_store import empty_index
from secondlook.model.stores.milvus_server import from_environment


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    parts: tuple[str, ...]
    images: int
    """Images that the index build takes, and Ray."""
    entries: tuple[int, ...]
    factories: tuple[str, ...]
    seconds: float = 2.0
    """How long each time is taken."""
    max_batch: int = 16
    """What the server takes at most."""
    with_peers: bool = False
    """Whether other servers are measured beside it."""


def run(root: Path, bundle: Bundle, data_root: Path | None, plan: Plan, progress: Progress = silent) -> Report:
    """Measure on the dataset that the bundle caches.

    Raises:
        DatasetError: the bundle caches neither cifar10 nor cifar100, or its images are not at data_root.
        ParameterError: a server is to be measured, which answers with the active bundle, and this is another.
        StoreError: Milvus is to be measured, and none is set.
        EngineError: Ray is to be measured, and is not installed.
        ServerError: a server does not start, or answers otherwise than the bundle itself.
    """
    manifest = bundle.manifest
    train, test = (load(manifest.dataset.name, split, data_root) for split in ("train", "test"))
    images = read_all(test, bundle.engine.size)[0]
    if "serve" in plan.parts and manifest.generation != active_generation(root):
        raise ParameterError("serve measures the active generation: leave --generation out, or activate it")
    milvus = from_environment()
    if "milvus" in plan.parts and milvus is None:
        raise StoreError("there is no Milvus server to measure: set SECONDLOOK_MILVUS__ADDRESS")
    if "stores" in plan.parts:
        _check_stores(plan, manifest.store.dim, len(train.labels))
    report = Report(machine(), manifest.generation, manifest.store.count, manifest.store.dim, manifest.k)
    if "engines" in plan.parts:
        report.engines = engines(bundle, images, plan.seconds)
    if "index" in plan.parts:
        if not isinstance(train, ArrayDataset):
            raise DatasetError("the index build is measured on cifar10: make a bundle of it, or leave 'index' out")
        report.index = index_build(bundle, root, first(train, plan.images), progress)
    if "stages" in plan.parts:
        report.stages = stages(bundle, images, plan.seconds)
        report.votes = votes(plan.seconds / 4)
    if "taught" in plan.parts:
        report.taught = taught(bundle, images, plan.seconds)
        report.merged = merged(bundle, train, test, progress)
    if "serve" in plan.parts:
        report.serve = serve(root, bundle, images, plan.max_batch, plan.with_peers, plan.seconds, progress)
    if "stores" in plan.parts:
        batch = images[:32]
        one = median_ms(lambda: bundle.engine.encode(batch[:1]), 2.0)
        many = median_ms(lambda: bundle.engine.encode(batch), 2.0) / 32
        wanted = min(max(plan.entries), len(train.labels))
        cached = embed_queries(train, np.arange(wanted), bundle.engine, progress)
        asked = embed_queries(test, np.arange(min(QUERIES, len(test.labels))), bundle.engine, progress)
        report.flat = flat_search(cached.keys[: min(plan.entries)], asked.keys, for_seconds=plan.seconds / 4)
        for count in plan.entries:
            report.stores += stores(
                *spread(cached.keys, cached.labels, count),
                Encoding(asked.logits, asked.keys),
                plan.factories,
                Parameters(manifest.theta, manifest.lam, manifest.k),
                (one, many),
                report.machine.read_gb_per_second * 1e9,
                plan.seconds,
                progress,
            )
    if "milvus" in plan.parts:
        assert milvus is not None
        cached = embed_queries(train, np.arange(len(train.labels)), bundle.engine, progress)
        asked = embed_queries(test, np.arange(min(COMPARED, len(test.labels))), bundle.engine, progress)
        chosen = Parameters(manifest.theta, manifest.lam, manifest.k)
        for count in plan.entries:
            own, queries = spread(cached.keys, cached.labels, count), Encoding(asked.logits, asked.keys)
            report.milvus += milvus_search(milvus, *own, queries, chosen, plan.seconds, progress)
    if "ray" in plan.parts:
        source = FromBundle(root, manifest.generation)
        report.ray = embedding(source, train, min(plan.images, len(train.labels)), progress)
    return report


def _check_stores(plan: Plan, dim: int, real: int) -> None:
    """Refuse a store or a size before anything is measured."""
    for count in plan.entries:
        for factory in plan.factories:
            if factory != "auto":
                empty_index(factory, dim)
                check_trainable(factory, count)
        # The real keys, those measured, a store's own copy, the decoded ones, and similarities of some queries.
        needed = 4.0 * dim * (min(real, max(plan.entries)) + 3 * count) + 20.0 * CHUNK * count
        check_memory(needed, f"measuring {count:,} entries of {dim} numbers", "leave out such a size with --entries")

"""One run of the benchmarks that were asked for."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.backbones import backbones
from benchmarks.bodies import bodies_for
from benchmarks.decoding import decoding
from benchmarks.engines import engines
from benchmarks.index_build import first, index_build
from benchmarks.milvus import COMPARED, milvus_search
from benchmarks.network import network
from benchmarks.on_ray import embedding
from benchmarks.report import Report
from benchmarks.serve import serve
from benchmarks.stages import stages
from benchmarks.stores import CHUNK, QUERIES, flat_search, resized, stores
from benchmarks.taught import merged, taught
from benchmarks.votes import votes
from secondlook.evaluation.machine import machine
from secondlook.evaluation.timing import median_ms
from secondlook.indexer.datasets.datasets import DEFAULT_LIMITS, ArrayDataset, Dataset, load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import ENCODER
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import DatasetError, ParameterError, StoreError
from secondlook.model.images import decode
from secondlook.model.memory import check_memory
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
    network: str | None = None
    """What 'network' measures; None = the bundle's encoder."""
    photos: Path | None = None
    """What 'backbones' are measured on; and a server where the images that its bundle caches are not here."""


@dataclass(frozen=True)
class _Bench:
    """What is measured, and with what; images are read where a part needs them."""

    root: Path
    bundle: Bundle
    data_root: Path | None
    plan: Plan
    report: Report
    progress: Progress

    @cached_property
    def train(self) -> Dataset:
        return load(self.bundle.manifest.dataset.name, "train", self.data_root)

    @cached_property
    def test(self) -> Dataset:
        return load(self.bundle.manifest.dataset.name, "test", self.data_root)

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """Test images (N,H,W,3)."""
        return read_all(self.test, self.bundle.geometry)[0]

    @property
    def parameters(self) -> Parameters:
        manifest = self.bundle.manifest
        return Parameters(manifest.theta, manifest.lam, manifest.k)

    def engines(self) -> None:
        bodies, _ = bodies_for(self.bundle.manifest, self.data_root, self.plan.photos)
        images = np.stack([decode(body, self.bundle.geometry, DEFAULT_LIMITS) for body in bodies])
        self.report.engines = engines(self.bundle, images, self.plan.seconds)

    def network(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.report.network = network(
                self.plan.network, self.bundle.path / ENCODER, Path(folder), self.plan.seconds, self.progress
            )

    def backbones(self) -> None:
        assert self.plan.photos is not None
        self.report.backbones = backbones(self.plan.photos, self.plan.seconds, self.progress)

    def index(self) -> None:
        if not isinstance(self.train, ArrayDataset):
            raise DatasetError("the index build is measured on cifar10: make a bundle of it, or leave 'index' out")
        self.report.index = index_build(self.bundle, self.root, first(self.train, self.plan.images), self.progress)

    def stages(self) -> None:
        self.report.stages = stages(self.bundle, self.images, self.plan.seconds)
        self.report.votes = votes(self.plan.seconds / 4)

    def taught(self) -> None:
        self.report.taught = taught(self.bundle, self.images, self.plan.seconds)
        self.report.merged = merged(self.bundle, self.train, self.test, self.progress)

    def serve(self) -> None:
        plan = self.plan
        bodies, what = bodies_for(self.bundle.manifest, self.data_root, plan.photos)
        # In the process on the engine that the server takes, so that only the serving differs.
        bundle = open_bundle(self.root, self.bundle.manifest.generation, engine="auto")
        self.report.serve = serve(
            self.root,
            bundle,
            bodies,
            what,
            plan.max_batch,
            plan.with_peers,
            plan.seconds,
            self.progress,
        )

    def stores(self) -> None:
        batch, engine, plan = self.images[:32], self.bundle.engine, self.plan
        one = median_ms(lambda: engine.encode(batch[:1]), 2.0)
        many = median_ms(lambda: engine.encode(batch), 2.0) / 32
        cached = self._embedded(self.train, max(plan.entries))
        queries = self._embedded(self.test, QUERIES)
        self.report.flat = flat_search(cached.keys[: min(plan.entries)], queries.keys, for_seconds=plan.seconds / 4)
        for count in plan.entries:
            self.report.stores += stores(
                *resized(cached.keys, cached.labels, count),
                Encoding(queries.logits, queries.keys),
                plan.factories,
                self.parameters,
                (one, many),
                self.report.machine.read_gb_per_second * 1e9,
                plan.seconds,
                self.progress,
            )

    def decoding(self) -> None:
        self.report.decoding = decoding(self.plan.seconds, self.progress)

    def milvus(self) -> None:
        server = from_environment()
        assert server is not None
        cached, queries = self._embedded(self.train), self._embedded(self.test, COMPARED)
        for count in self.plan.entries:
            own, asked = resized(cached.keys, cached.labels, count), Encoding(queries.logits, queries.keys)
            self.report.milvus += milvus_search(server, *own, asked, self.parameters, self.plan.seconds, self.progress)

    def ray(self) -> None:
        source = FromBundle(self.root, self.bundle.manifest.generation)
        images = min(self.plan.images, len(self.train.labels))
        self.report.ray = embedding(source, self.train, images, self.progress)

    def _embedded(self, dataset: Dataset, most: int | None = None) -> EmbeddedQueries:
        positions = np.arange(len(dataset.labels))[:most]
        return embed_queries(dataset, positions, self.bundle, self.progress)


PARTS = ("engines", "network", "index", "stages", "taught", "serve", "stores", "decoding", "backbones", "milvus", "ray")
ON_REQUEST = ("backbones", "milvus", "ray")
"""They need what not everyone has, and are measured only where they are named."""


def run(root: Path, bundle: Bundle, data_root: Path | None, plan: Plan, progress: Progress = silent) -> Report:
    """Measure on the dataset that the bundle caches; a server on other images, where that is not here.

    Raises:
        DatasetError: the bundle caches neither cifar10 nor cifar100, or its images are not at data_root; or backbones
            are to be measured, and there are no photos.
        ParameterError: a server is to be measured, which answers with the active bundle, and this is another.
        StoreError: Milvus is to be measured, and none is set.
        EngineError: Ray is to be measured, and is not installed.
        ServerError: a server does not start, or answers otherwise than the bundle itself.
    """
    manifest = bundle.manifest
    report = Report(machine(), manifest.generation, manifest.store.count, manifest.store.dim, manifest.k)
    bench = _Bench(root, bundle, data_root, plan, report, progress)
    if "serve" in plan.parts and manifest.generation != active_generation(root):
        raise ParameterError("serve measures the active generation: leave --generation out, or activate it")
    if "milvus" in plan.parts and from_environment() is None:
        raise StoreError("there is no Milvus server to measure: set SECONDLOOK_MILVUS__ADDRESS")
    if "backbones" in plan.parts and plan.photos is None:
        raise DatasetError("there are no photos to measure backbones on: set SECONDLOOK_PHOTOS, or give --photos")
    if "stores" in plan.parts:
        _check_stores(plan, manifest.store.dim, len(bench.train.labels))
    for part in PARTS:
        if part in plan.parts:
            getattr(bench, part)()
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

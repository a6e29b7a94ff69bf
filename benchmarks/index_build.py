"""The index build against the encoder alone."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engines import encode_all
from secondlook.evaluation.timing import seconds
from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle


@dataclass(frozen=True)
class IndexResult:
    """Speed of a whole index build beside the encoder's own."""

    images: int
    encoder_images_per_second: float
    index_images_per_second: float
    embed_images_per_second: float
    """Of the build's embedding alone: decoding, encoding and thumbnails, without store, measuring and writing."""

    @property
    def ratio(self) -> float:
        """Index over encoder."""
        return self.index_images_per_second / self.encoder_images_per_second


def index_build(bundle: Bundle, root: Path, dataset: Dataset, progress: Progress = silent) -> IndexResult:
    """Measure images a second of a whole ``index`` (decode, embed, store, write, verify) and of its encoder alone."""
    images = np.stack([dataset.read(i, bundle.geometry) for i in range(min(len(dataset.labels), 5000))])
    options = IndexOptions(parameters=Parameters(50.0, 0.5, 50))
    source = FromBundle(root, bundle.manifest.generation)
    with tempfile.TemporaryDirectory() as folder:
        engine = source.prepare(dataset, Path(folder), progress).engine
    rates = [len(images) / seconds(lambda: encode_all(engine, images)) for _ in range(2)]
    embedding: list[float] = []

    def watched(stage: str, done: int, total: int) -> None:
        if stage == "embed":
            embedding.append(time.perf_counter())
        progress(stage, done, total)

    with tempfile.TemporaryDirectory() as folder:
        took = seconds(lambda: index(dataset, Path(folder), source, options, watched))
    rates.append(len(images) / seconds(lambda: encode_all(engine, images)))
    # The first report comes after the first batch.
    embedded = (len(dataset.labels) - BATCH) / (embedding[-1] - embedding[0])
    return IndexResult(len(dataset.labels), float(np.median(rates)), len(dataset.labels) / took, embedded)


def first(dataset: ArrayDataset, count: int) -> ArrayDataset:
    """Take the first images of a dataset."""
    return ArrayDataset(
        dataset.name, dataset.split, dataset.classes, dataset.labels[:count], dataset.images[:count], dataset.sources
    )

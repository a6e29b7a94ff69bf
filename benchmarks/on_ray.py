"""Embedding as ``index`` does it, in shards, and in shards on Ray with one worker and with two, in one run."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import FromBundle, prepared
from secondlook.indexer.embedding.entries import embed_entries
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.sharding.on_ray import LOCAL, Job, default_shards, embed_on_ray
from secondlook.indexer.sharding.shards import CHUNK, Plan, Shards, chunk_ranges, shard_folder
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import ParameterError
from secondlook.model.networks.preprocess import CIFAR

INDEX = "index"
WORKERS = (1, 2)
FEWEST = 4 * max(WORKERS) * CHUNK
"""So that every worker writes some files."""


@dataclass(frozen=True)
class RayResult:
    """One way to embed the same image files."""

    name: str
    images: int
    images_per_second: float
    """Of the embedding, from when every worker has written a file of a shard."""
    first_file_seconds: float | None = None
    """Until there is a file of a shard: Ray, its actors and their encoders start within it."""


def embedding(source: FromBundle, dataset: Dataset, images: int, progress: Progress = silent) -> list[RayResult]:
    """Embed the first images of a dataset, from PNG files, in each of these ways.

    Raises:
        ParameterError: there are too few images for every worker to write some files.
        EngineError: Ray is not installed.
    """
    if images < FEWEST:
        raise ParameterError(f"workers on Ray are compared by {FEWEST:,} images or more, not by {images:,}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        many = _files(dataset, base / "images", images)

        def told(way: str) -> Progress:
            return lambda _, done, total: progress(way, done, total)

        plain = [_plain(source, many, told(INDEX))]
        results = []
        # What one way embeds would be known to the next one: each has a root of its own.
        generation = source.generation or active_generation(source.root)

        def alone(way: int) -> FromBundle:
            shutil.copytree(source.root / generation, base / f"root-{way}" / generation)
            return FromBundle(base / f"root-{way}", generation)

        shards = Shards(many, alone(0), base / "parts-0", default_shards(images))
        for workers in (0, *WORKERS):
            parts = base / f"parts-{workers}"
            started = time.time()  # as the files' own times are
            if workers:
                job = Job("images", "train", base, alone(workers), parts, shards.plan.shards)
                name = f"Ray, {workers} worker{'s' if workers > 1 else ''}"
                embed_on_ray(LOCAL, job, workers, told(name))
            else:
                for shard in range(shards.plan.shards):
                    shards.write(shard)
                name = "shards, one after the other"
            rate, first = _rate(parts, shards.plan, max(workers, 1))
            results.append(RayResult(name, images, rate, first - started))
        plain.append(_plain(source, many, told(f"{INDEX} again")))
    return [RayResult(INDEX, images, images / float(np.mean(plain))), *results]


def _rate(parts: Path, plan: Plan, workers: int) -> tuple[float, float]:
    """Images a second from the time when each worker has written a file, and the time of the first."""
    written = sorted(
        (file.stat().st_mtime, len(positions))
        for shard in range(plan.shards)
        for name, positions in chunk_ranges(plan.images, plan.shards, shard).items()
        if (file := shard_folder(parts, shard) / name)
    )
    times = [when for when, _ in written]
    return sum(images for _, images in written[workers:]) / (times[-1] - times[workers - 1]), times[0]


def _files(dataset: Dataset, folder: Path, count: int) -> Dataset:
    for title in dataset.classes:
        (folder / title).mkdir(parents=True)
    for i in range(count):
        image = Image.fromarray(dataset.read(i, CIFAR.geometry))
        image.save(folder / dataset.classes[dataset.labels[i]] / f"{i:06d}.png")
    return load(str(folder))


def _plain(source: FromBundle, dataset: Dataset, progress: Progress) -> float:
    """Seconds that ``index`` embeds for."""
    opened = source.open(dataset)
    encoder = prepared(opened, dataset)
    everything = np.arange(len(dataset.labels))
    started = time.perf_counter()
    embed_entries(dataset, everything, encoder, progress, mirror=False, thumbnails=True)
    return time.perf_counter() - started

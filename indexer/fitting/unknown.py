"""Images of nothing that a bundle knows, for novelty to be chosen on: synthetic ones, and those that somebody names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import DEFAULT_LIMITS, ArrayDataset, Dataset, load, splits
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.left_out import LeftOut, printable
from secondlook.indexer.datasets.walk import walk
from secondlook.indexer.embedding.embedding import embedded_batches
from secondlook.indexer.embedding.kept_features import Counts, KeptFeatures
from secondlook.indexer.progress import Progress, silent
from secondlook.model.errors import DatasetError
from secondlook.model.networks.engines import Encoding, ImageEncoder

MOST = 2000
"""Images of each dataset that are looked at, evenly spread over it."""

SYNTHETIC = 250
"""Synthetic images of each kind."""


def load_unknown(name: str, split: str, data_root: Path | None = None) -> Dataset:
    """A dataset's split, or all images in a folder and below it, in class folders or not.

    Raises:
        DatasetError: there is none, or it has no images.
    """
    folder = Path(name).resolve()
    if not folder.is_dir() or splits(name, data_root):
        return load(name, split, data_root)
    left_out = LeftOut()
    files = walk(folder.parent, [folder.name], left_out)
    if not files:
        raise DatasetError(f"{name} has no images: name a folder that has some with --unknown")
    title, labels = printable(folder.name), np.zeros(len(files), np.int64)
    return FolderDataset(
        title, split, (title,), labels, folder.parent, tuple(files), DEFAULT_LIMITS, ((folder.name,),), left_out
    )


def unknown_kinds(
    encoder: ImageEncoder, named: Sequence[Dataset], progress: Progress = silent, kept: KeptFeatures | None = None
) -> dict[str, Encoding]:
    """What an encoder says of each kind of unknown images: those that are made here, and some of each dataset.

    Raises:
        DatasetError: too many images of a dataset are unreadable.
    """
    kept = kept or KeptFeatures(None, encoder.engine.dim)
    found = {}
    counts, kept.counts = kept.counts, Counts()  # nobody asked for those that are made here
    try:
        for kind, images in synthetic_images(encoder.engine.size).items():
            seen = _seen(_as_dataset(kind, images), encoder, kept, silent)
            if seen is not None:
                found[kind] = seen
    finally:
        kept.counts = counts
    for dataset in named:
        seen = _seen(dataset, encoder, kept, progress)
        if seen is None:
            raise DatasetError(f"{dataset.name} has no readable images: name a folder that has some with --unknown")
        found[dataset.name] = seen
    return found


def _seen(dataset: Dataset, encoder: ImageEncoder, kept: KeptFeatures, progress: Progress) -> Encoding | None:
    """What an encoder says of some of a dataset's images; None where there is no key of any."""
    count = len(dataset.labels)
    positions = np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64)
    parts, done = [], 0
    with closing(embedded_batches(dataset, positions, encoder, kept)) as batches:
        for batch in batches:
            parts.append(batch.copies[0].encoding)
            done += len(batch.positions)
            progress("unknown", done, len(positions))
    return Encoding(*(np.concatenate(of) for of in zip(*parts, strict=True))) if parts else None


def _as_dataset(kind: str, images: NDArray[np.uint8]) -> ArrayDataset:
    sources = [f"{kind} {number}" for number in range(len(images))]
    return ArrayDataset(kind, "train", (kind,), np.zeros(len(images), np.int64), images, sources)


def synthetic_images(size: tuple[int, int], count: int = SYNTHETIC) -> dict[str, NDArray[np.uint8]]:
    """Kinds of images far from any photo, each (count,height,width,3): always the same for a size (height, width)."""
    random = np.random.default_rng(0)
    return {
        "noise": random.integers(0, 256, (count, *size, 3), dtype=np.uint8),
        "textures": np.stack([_texture(random, size) for _ in range(count)]),
    }


def _texture(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Clouds, grains, stripes or spots in two colours: noise of some wavelengths, which may have a direction."""
    height, width = size
    down, across = np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width
    waves = np.hypot(down, across)
    middle, spread = np.exp(random.uniform(0.5, np.log(max(4.0, min(size) / 3)))), random.uniform(0.2, 0.8)
    kept = np.exp(-((np.log(np.maximum(waves, 0.3) / middle) / spread) ** 2) / 2)
    if random.random() < 0.5:
        along = np.cos(np.arctan2(down, across) - random.uniform(0, np.pi)) ** 2
        kept *= along ** random.uniform(2, 30)
    field = np.fft.ifft2(np.fft.fft2(random.standard_normal(size)) * kept).real
    field /= max(float(field.std()), 1e-12)
    sharp = np.exp(random.uniform(-0.5, 3.0))
    share = (1 / (1 + np.exp(-sharp * field)))[..., None]
    first, second = random.uniform(0, 255, (2, 3))
    texture: NDArray[np.uint8] = np.round(first * share + second * (1 - share)).astype(np.uint8)
    return texture

"""The image files that a server of any bundle is asked about."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.stages import png
from secondlook.indexer.datasets.datasets import ArrayDataset, load, splits
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.walk import read_image
from secondlook.model.errors import DatasetError
from secondlook.model.images import EXTENSIONS
from secondlook.model.manifest import Manifest

MOST = 512
MADE = 32
MADE_SIZE = 500, 373
"""Width and height of made photos."""


def bodies_for(manifest: Manifest, data_root: Path | None, photos: Path | None) -> tuple[list[bytes], str]:
    """Files of the dataset that a bundle caches, of its test split where it has one, and what they are.

    Where that is not here, those below photos; where there are none either, photos are made.

    Raises:
        DatasetError: no image lies below photos.
    """
    try:
        there = splits(manifest.dataset.name, data_root)
        split = next((split for split in ("test", "val", "train") if split in there), "train")
        dataset = load(manifest.dataset.name, split, data_root)
    except DatasetError:
        return _below(photos) if photos is not None else _made()
    some = np.linspace(0, len(dataset.labels) - 1, min(MOST, len(dataset.labels))).astype(int)
    what = f"{len(some)} images of {Path(manifest.dataset.name).name} {split}"
    if isinstance(dataset, ArrayDataset):
        return [png(dataset.images[i]) for i in some], f"{what}, as PNGs"
    assert isinstance(dataset, FolderDataset)
    return [read_image(dataset.root / dataset.files[i], dataset.limits) for i in some], what


def _below(folder: Path) -> tuple[list[bytes], str]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not files:
        raise DatasetError(f"no image lies below {folder}: give --photos a folder that has some")
    some = np.linspace(0, len(files) - 1, min(MOST, len(files))).astype(int)
    return [files[i].read_bytes() for i in some], f"{len(some)} files below {folder.name}"


def _made() -> tuple[list[bytes], str]:
    width, height = MADE_SIZE
    random, files = np.random.default_rng(0), []
    for _ in range(MADE):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files, f"{MADE} made photos, JPEGs of {width} x {height}"

"""Images of nothing that a classifier knows: any dataset's, and some that are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from secondlook.indexer.datasets.datasets import ArrayDataset, Dataset
from secondlook.indexer.fitting.unknown import load_unknown

MADE = ("drawings", "noise")
IMAGES, BYTES = 2000, 64 << 20
"""Of each kind that are made: so many, or as many as fit into so much memory."""

CANVAS = 4
"""Drawings are made so many times larger than they are asked for, and then brought to size: their lines are smooth."""


def unknown_images(name: str, size: tuple[int, int], data_root: Path | None = None, images: int = IMAGES) -> Dataset:
    """Make ``drawings`` or ``noise`` (always the same), or load the test images of a dataset, or those of a folder.

    Raises:
        DatasetError: there is no such dataset.
    """
    if name not in MADE:
        return load_unknown(name, "test", data_root)
    random = np.random.default_rng(0)
    make = _drawing if name == "drawings" else _noise
    images = max(1, min(images, BYTES // (3 * size[0] * size[1])))
    made = np.empty((images, *size, 3), np.uint8)
    for image in made:
        image[:] = make(random, size)
    sources = [f"{name} {i}" for i in range(images)]
    return ArrayDataset(name, "test", (name,), np.zeros(images, np.int64), made, sources)


def _drawing(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One to five lines and shapes in dark colours on light paper."""
    height, width = (CANVAS * side for side in size)
    image = Image.new("RGB", (width, height), _colour(random, 180, 256))
    pen = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 6)):
        colour, thickness = _colour(random, 0, 160), int(random.integers(2, 9))
        fill = colour if random.random() < 0.3 else None
        count = random.integers(3, 6)
        points = np.stack((random.integers(0, width, count), random.integers(0, height, count)), axis=1)
        box: Any = [*points.min(axis=0).tolist(), *(points.max(axis=0) + 1).tolist()]
        corners = [(int(x), int(y)) for x, y in points]
        match random.integers(4):
            case 0:
                pen.line(corners, fill=colour, width=thickness)
            case 1:
                pen.ellipse(box, outline=colour, width=thickness, fill=fill)
            case 2:
                pen.rectangle(box, outline=colour, width=thickness, fill=fill)
            case _:
                pen.polygon(corners, outline=colour, width=thickness, fill=fill)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _colour(random: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(channel) for channel in random.integers(low, high, 3))


def _noise(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Each pixel's each channel any value."""
    return random.integers(0, 256, (*size, 3), dtype=np.uint8)

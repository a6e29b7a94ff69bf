"""Natural shifts after CIFAR-10-C: five of its families at its five strengths, made here from any dataset.

Families and strengths are those of D. Hendrycks and T. Dietterich, 'Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations' (2019), for images of 32x32 pixels. The images are generated here and not the published
files: noise is drawn anew, and JPEG is Pillow's.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset
from secondlook.model.images import Geometry

Pixels = NDArray[np.float64]
STRENGTHS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Family:
    """One way in which images change."""

    label: str
    levels: tuple[float, ...]
    """What ``apply`` takes at each strength."""
    apply: Callable[[Pixels, float, np.random.Generator], Pixels]
    """Pixels (H,W,3) in 0..1, a level and a source of noise -> pixels, which may leave 0..1."""


def noise(pixels: Pixels, level: float, random: np.random.Generator) -> Pixels:
    """Add normal noise of that standard deviation."""
    return pixels + random.normal(scale=level, size=pixels.shape)


def blur(pixels: Pixels, level: float, random: np.random.Generator) -> Pixels:
    """Blur by a Gaussian of that standard deviation in pixels, cut off at four of them; the border is repeated."""
    radius = int(4 * level + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / level) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        margin = [(radius, radius) if axis == a else (0, 0) for a in range(3)]
        seen = np.lib.stride_tricks.sliding_window_view(np.pad(pixels, margin, mode="edge"), 2 * radius + 1, axis)
        pixels = seen @ weights
    return pixels


def contrast(pixels: Pixels, level: float, random: np.random.Generator) -> Pixels:
    """Draw each channel to its mean."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    drawn: Pixels = (pixels - mean) * level + mean
    return drawn


def brightness(pixels: Pixels, level: float, random: np.random.Generator) -> Pixels:
    """Raise the value of hue, saturation and value by that much."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + level, 1)
    # Scaling all channels alike keeps hue and saturation; black has neither and becomes grey.
    brighter: Pixels = np.where(value > 0, pixels * (raised / np.maximum(value, 1e-9)), raised)
    return brighter


def jpeg(pixels: Pixels, level: float, random: np.random.Generator) -> Pixels:
    """Compress as JPEG of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(buffer, "JPEG", quality=int(level))
    with Image.open(buffer, formats=("JPEG",)) as image:
        return np.asarray(image) / 255.0


FAMILIES = {
    "gaussian_noise": Family("noise", (0.04, 0.06, 0.08, 0.09, 0.10), noise),
    "gaussian_blur": Family("blur", (0.4, 0.6, 0.7, 0.8, 1.0), blur),
    "contrast": Family("contrast", (0.75, 0.5, 0.4, 0.3, 0.15), contrast),
    "brightness": Family("brightness", (0.05, 0.1, 0.15, 0.2, 0.3), brightness),
    "jpeg_compression": Family("JPEG", (80, 65, 58, 50, 40), jpeg),
}
"""By the names that CIFAR-10-C gives them."""


def corrupt(image: NDArray[np.uint8], family: str, strength: int, seed: tuple[int, ...] = (0,)) -> NDArray[np.uint8]:
    """Corrupt one image (H,W,3) by a family at a strength of 1 to 5; the noise depends on the seed alone."""
    found = FAMILIES[family]
    changed = found.apply(image / 255.0, found.levels[strength - 1], np.random.default_rng(seed))
    return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)


def shifted(dataset: Dataset, family: str, strength: int) -> DerivedDataset:
    """A dataset whose images are all corrupted as they are read, at the size that is asked for."""

    def read(index: int, geometry: Geometry) -> NDArray[np.uint8]:
        # Training and test image of the same position must not share their noise.
        seed = (index, strength, int(dataset.split == "test"))
        return corrupt(dataset.read(index, geometry), family, strength, seed)

    return DerivedDataset.of(
        dataset,
        name=f"{dataset.name} under {family} {strength}",
        read=read,
        content_hash=lambda: f"{dataset.content_hash()} {family} {strength}",
    )

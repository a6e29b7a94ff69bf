"""Images far from anything that is photographed, made here: what novelty is tried on besides other images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IMAGES = 250
"""Of each kind."""


def synthetic_images(size: tuple[int, int], count: int = IMAGES) -> dict[str, NDArray[np.uint8]]:
    """Kinds of far images, each (count,height,width,3): always the same ones for a size (height, width)."""
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

"""Each family does what its name says, more of it at each strength, and the same every time."""

import io

import numpy as np
import pytest
from PIL import Image

from secondlook.evaluation.studies.corruptions import (
    FAMILIES,
    STRENGTHS,
    blur,
    brightness,
    contrast,
    corrupt,
    jpeg,
    noise,
    shifted,
)
from secondlook.indexer.datasets.datasets import ArrayDataset
from secondlook.model.networks.preprocess import CIFAR

RANDOM = np.random.default_rng(0)
# Smooth blobs with some texture, as photographs have.
SMOOTH = Image.fromarray(RANDOM.integers(60, 180, (6, 6, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
PICTURE = np.clip(np.asarray(SMOOTH) + RANDOM.normal(0, 6, (32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_strength_changes_more_than_the_one_before(family: str) -> None:
    changes = [np.abs(corrupt(PICTURE, family, strength).astype(float) - PICTURE).mean() for strength in (*STRENGTHS,)]
    assert changes[0] > 0.5
    assert (np.diff(changes) > 0).all()
    assert corrupt(PICTURE, family, 5).dtype == np.uint8


def test_noise_has_its_standard_deviation_and_follows_the_seed() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = corrupt(grey, "gaussian_noise", 5, (7,))
    assert (noisy / 255.0).std() == pytest.approx(0.10, rel=0.03)
    np.testing.assert_array_equal(noisy, corrupt(grey, "gaussian_noise", 5, (7,)))
    assert (noisy != corrupt(grey, "gaussian_noise", 5, (8,))).mean() > 0.9
    assert noise(grey / 255.0, 0.1, np.random.default_rng(0)).max() > 0.7


def test_blur_spreads_a_point_into_a_gaussian_and_leaves_the_border_bright() -> None:
    point = np.zeros((17, 17, 3))
    point[8, 8] = 1.0
    spread = blur(point, 1.0, RANDOM)[:, :, 0]
    assert spread.sum() == pytest.approx(1.0)
    at = np.arange(17) - 8
    assert (spread * at[:, None] ** 2).sum() == pytest.approx(1.0, abs=0.01)
    assert spread[8, 9] / spread[8, 8] == pytest.approx(np.exp(-0.5))
    np.testing.assert_allclose(spread, spread.T)
    np.testing.assert_allclose(blur(np.full((9, 5, 3), 0.7), 0.6, RANDOM), 0.7)


def test_contrast_keeps_each_channels_mean() -> None:
    pixels = PICTURE / 255.0
    flat = contrast(pixels, 0.3, RANDOM)
    np.testing.assert_allclose(flat.mean(axis=(0, 1)), pixels.mean(axis=(0, 1)))
    np.testing.assert_allclose(flat.std(axis=(0, 1)), 0.3 * pixels.std(axis=(0, 1)))


def test_brightness_raises_the_value_and_keeps_the_hue() -> None:
    pixels = np.array([[[0.4, 0.2, 0.1], [0.0, 0.0, 0.0], [0.9, 0.45, 0.0]]])
    np.testing.assert_allclose(
        brightness(pixels, 0.2, RANDOM), [[[0.6, 0.3, 0.15], [0.2, 0.2, 0.2], [1.0, 0.5, 0.0]]], atol=1e-12
    )


def test_jpeg_is_of_the_quality_asked() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=40)
    with Image.open(io.BytesIO(buffer.getvalue())) as expected:
        np.testing.assert_allclose(255 * jpeg(PICTURE / 255.0, 40, RANDOM), np.asarray(expected))


def test_a_shifted_dataset_changes_its_images_only() -> None:
    images = np.stack([PICTURE] * 10)
    sources = [f"{i}.png" for i in range(10)]
    test, train = (
        ArrayDataset("blobs", split, ("a", "b"), np.arange(10) % 2, images, sources) for split in ("test", "train")
    )
    noisy = shifted(test, "gaussian_noise", 3)
    assert (noisy.classes, noisy.split, noisy.source(4)) == (test.classes, "test", "4.png")
    np.testing.assert_array_equal(noisy.labels, test.labels)
    np.testing.assert_array_equal(noisy.holdout(), test.holdout())
    assert noisy.content_hash() != test.content_hash()
    np.testing.assert_array_equal(noisy.read(4, CIFAR.geometry), noisy.read(4, CIFAR.geometry))
    # Neither another image nor the training image of the same place has the same noise.
    assert (noisy.read(4, CIFAR.geometry) != noisy.read(5, CIFAR.geometry)).mean() > 0.9
    assert (noisy.read(4, CIFAR.geometry) != shifted(train, "gaussian_noise", 3).read(4, CIFAR.geometry)).mean() > 0.9

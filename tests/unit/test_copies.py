"""Copies are found however they were encoded, and other pictures are not taken for them."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from secondlook.indexer.datasets.copies import FARTHEST, MOST, Looks, Repeats, copies_of, first_copies, kept_apart
from tests.images_for_tests import as_file, photos

Pictures = NDArray[np.uint8]


def encoded(images: Pictures, format: str, **options: int) -> Pictures:
    files = (as_file(image, format, **options) for image in images)
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def scaled(images: Pictures, side: int) -> Pictures:
    size = images.shape[2], images.shape[1]
    return np.stack([np.asarray(Image.fromarray(i).resize((side, side), 3).resize(size, 3)) for i in images])


@pytest.mark.parametrize(
    "copy",
    [
        lambda images: images,
        lambda images: encoded(images, "JPEG", quality=30),
        lambda images: encoded(images, "JPEG", quality=75),
        lambda images: encoded(images, "WEBP", quality=60),
        lambda images: scaled(images, 33),
        lambda images: scaled(images, 24),
    ],
)
@pytest.mark.parametrize("side", [32, 50])
def test_copies_are_found_and_others_are_not(copy: object, side: int) -> None:
    known = photos(200, side)
    copied = copy(known[:100])  # type: ignore[operator]
    assert copies_of(Looks.of(copied), Looks.of(known)).tolist() == [True] * 100 + [False] * 100
    together = Looks.joined([Looks.of(known), Looks.of(copied)])
    assert first_copies(together).tolist() == [*range(200), *range(100)]


def test_the_search_finds_what_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(1)
    known = photos(40)
    noisy = [np.clip(known + random.normal(shift, 6, known.shape), 0, 255) for shift in (-3, -1, 0, 2, 3.5)]
    looks = Looks.of(np.concatenate([known, *noisy]).astype(np.uint8))
    luma = looks.luma.astype(float)
    apart = np.sqrt(np.square(luma[:, None] - luma[None]).mean(axis=2))
    expected = np.argmax(apart <= FARTHEST, axis=1)
    assert (expected < np.arange(len(looks))).sum() > 100
    np.testing.assert_array_equal(first_copies(looks), expected)


def test_pictures_without_a_pattern_are_copies_only_where_all_pixels_are_equal() -> None:
    plain = np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in (200, 201, 200)])
    assert first_copies(Looks.of(plain)).tolist() == [0, 1, 0]


def test_one_sign_in_two_colours_is_two_photos() -> None:
    sign = np.full((32, 32, 3), 255, np.uint8)
    red, green = sign.copy(), sign.copy()
    red[8:24, 8:24] = (200, 0, 0)  # both of the same brightness
    green[8:24, 8:24] = (0, 102, 0)
    assert first_copies(Looks.of(np.stack([red, green]))).tolist() == [0, 1]


def test_a_thousand_of_one_picture() -> None:
    looks = Looks.of(np.repeat(photos(2), 1000, axis=0))
    assert first_copies(looks).tolist() == [0] * 1000 + [1000] * 1000
    assert copies_of(looks[np.array([1500])], looks).tolist() == [False] * 1000 + [True] * 1000


def test_none() -> None:
    nothing = Looks.joined([])
    assert len(nothing) == 0
    assert first_copies(nothing).tolist() == []
    assert copies_of(nothing, Looks.of(photos(2))).tolist() == [False, False]
    assert copies_of(Looks.of(photos(2)), nothing).tolist() == []


def test_images_smaller_than_the_grid() -> None:
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 3), dtype=np.uint8)
    assert first_copies(Looks.of(small)).tolist() == [0, 1, 2, 3]


def test_copies_of_held_images_are_kept_apart_with_them() -> None:
    known = photos(60)
    copied = encoded(known[:10], "JPEG", quality=60)
    images = Looks.of(np.concatenate([known, copied, known[20:21]]))
    labels = np.array([i % 3 for i in range(71)])
    held = np.zeros(71, bool)
    held[[3, 20, 65]] = True  # 63 and 5 are copies of the first and last, 70 is the second
    assert np.flatnonzero(kept_apart(held, images, labels)).tolist() == [3, 5, 20, 63, 65, 70]


def test_the_class_of_an_unmoved_camera_keeps_all_but_the_same_pixels(caplog: pytest.LogCaptureFixture) -> None:
    scene = photos(1)
    random = np.random.default_rng(0)
    frames = np.clip(scene + random.normal(0, 4, (20, *scene.shape[1:])), 0, 255).astype(np.uint8)
    others = photos(20, seed=5)
    images = Looks.of(np.concatenate([frames, frames[19:], others, encoded(others[19:], "JPEG", quality=60)]))
    labels = np.array([0] * 21 + [1] * 21)
    held = np.zeros(42, bool)
    held[[19, 40]] = True
    assert np.flatnonzero(kept_apart(held, images, labels)).tolist() == [19, 20, 40, 41]
    assert "1 classes have images that are all alike" in caplog.text


def test_what_looks_like_many_others_is_no_copy() -> None:
    scene = photos(1)
    frames = scene + np.random.default_rng(0).normal(0, 4, (MOST + 20, *scene.shape[1:]))
    looks = Looks.of(np.clip(frames, 0, 255).astype(np.uint8))
    assert first_copies(looks).tolist() == list(range(MOST + 20))
    assert (first_copies(looks[:MOST]) == 0).all()


def test_repeats_are_counted_and_those_across_classes_are_named_once() -> None:
    first = np.array([0, 1, 0, 0, 1, 5, 0])
    labels = np.array([0, 0, 0, 1, 0, 2, 1])
    assert Repeats.of(first, labels) == (4, ((0, 3),))

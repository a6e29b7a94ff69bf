"""When an entry is the very picture: limits for exact keys and for stored ones, ties, and how the limits are found."""

from dataclasses import dataclass

import numpy as np
import pytest

from indexer.nearest_other import CLOSEST, nearest_other
from model.engines import Encoding
from model.manifest import SameAs
from model.overlay import FIRST_ID
from model.same_picture import SamePictures
from model.stores import Neighbors

LIMITS = SameAs(exact=0.99, stored=1.01, images=100, copies=0)
KEY = np.float32([[1, 0]])
TAUGHT, NEWER = FIRST_ID + 2, FIRST_ID + 8


def found(*entries: tuple[int, float]) -> Neighbors:
    ids, similarities = zip(*entries, strict=True)
    values = np.arange(len(ids))[None]
    return Neighbors(np.float32([similarities]), np.array([ids], np.int64), values)


@pytest.mark.parametrize(
    ("near", "place"),
    [
        (found((TAUGHT, 0.991)), 0),
        (found((TAUGHT, 0.9899)), -1),
        # Of a key in fewer bits as much is no proof; beyond its own limit it is.
        (found((5, 1.0)), -1),
        (found((5, 1.02)), 0),
        (found((5, 1.005), (TAUGHT, 1.0)), 1),
        (found((5, 1.02), (TAUGHT, 1.0)), 1),
        # The newest of what is the same, not of what is near.
        (found((TAUGHT, 1.0), (NEWER, 1.0 - 1e-6)), 1),
        (found((TAUGHT, 1.0), (NEWER, 0.995)), 0),
        (found((-1, -1.0), (-1, -1.0)), -1),
    ],
)
def test_the_same_picture_is_beyond_its_limit_and_the_newest(near: Neighbors, place: int) -> None:
    assert SamePictures(LIMITS, {}).find(KEY, near).tolist() == [place]


def test_without_limits_nothing_is_the_same() -> None:
    assert SamePictures(None, {}).find(KEY, found((TAUGHT, 1.0))).tolist() == [-1]
    assert SamePictures(LIMITS, {}).find(KEY, Neighbors(*(np.empty((1, 0)),) * 3)).tolist() == [-1]


def test_an_entry_whose_key_is_kept_exactly_is_held_to_the_exact_limit() -> None:
    same = SamePictures(LIMITS, {7: np.float32([1, 0]), 8: np.float32([0.5, 0.5])})
    assert same.find(KEY, found((5, 0.98), (7, 0.97))).tolist() == [1]
    # However near its stored key is.
    assert same.find(KEY, found((8, 1.05))).tolist() == [-1]


@dataclass
class Means:
    """An encoder whose keys are the images' mean colours, and as long as 1."""

    name = "means"
    size = (16, 16)
    classes = 2
    dim = 3
    batch = None

    def encode(self, images: np.ndarray) -> Encoding:
        keys = images.reshape(len(images), -1, 3).mean(axis=1, dtype=np.float64).astype(np.float32)
        return Encoding(np.zeros((len(images), 2), np.float32), keys / np.linalg.norm(keys, axis=1, keepdims=True))


def pictures(count: int, seed: int) -> np.ndarray:
    """Rough pictures of many colours, none like another."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return rough.repeat(4, axis=1).repeat(4, axis=2)


def limits(asked: np.ndarray, entries: np.ndarray, noise: float = 0.0) -> SameAs | None:
    engine = Means()
    keys, stored = engine.encode(asked).keys, engine.encode(entries).keys
    stored = stored + noise * np.random.default_rng(0).normal(size=stored.shape).astype(np.float32)
    similar = keys @ stored.T
    ids = np.argsort(-similar, axis=1)[:, :5]
    near = Neighbors(np.take_along_axis(similar, ids, axis=1), ids, ids)
    return nearest_other(keys, near, lambda rows: asked[rows], lambda ids: entries[ids], engine)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_limit_is_the_nearest_that_a_held_out_image_is_to_another_picture(noise: float) -> None:
    asked, entries = pictures(40, 1), pictures(200, 2)
    exact = Means().encode(asked).keys @ Means().encode(entries).keys.T
    limit = limits(asked, entries, noise)
    assert limit is not None
    assert limit.copies == 0
    assert limit.exact == pytest.approx(min(float(exact.max()), CLOSEST), abs=2e-3 if noise else 1e-6)
    if noise:
        assert limit.stored > limit.exact


def test_copies_in_the_holdout_are_left_out() -> None:
    entries = pictures(60, 2)
    dark = (pictures(30, 1).astype(np.float64) * [1.0, 0.2, 0.2]).astype(np.uint8)
    without = limits(dark, entries)
    copy = np.clip(entries[7].astype(int) + 2, 0, 255).astype(np.uint8)
    with_copies = limits(np.concatenate((dark, entries[3:4], copy[None])), entries)
    assert without is not None
    assert with_copies is not None
    assert with_copies.copies == 2
    assert with_copies.exact >= without.exact


def test_a_holdout_of_nothing_but_copies_has_no_limit() -> None:
    entries = pictures(2, 2)
    assert limits(entries[:1], entries[:1]) is None

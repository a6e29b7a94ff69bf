"""When an entry is the very picture: limits for exact keys and for stored ones, ties, and how the limits are found."""

import numpy as np
import pytest

from secondlook.indexer.fitting.nearest_other import CLOSEST, larger, nearest_other
from secondlook.model.answering.same_picture import SamePictures
from secondlook.model.manifest import SameAs
from secondlook.model.stores.added_keys import FIRST_ID
from secondlook.model.stores.store import Neighbors

LIMITS = SameAs(exact=0.99, stored=1.01, images=100)
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


def unit(count: int, seed: int) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def nearest(keys: np.ndarray, entries: np.ndarray, k: int = 5) -> Neighbors:
    similar = keys @ entries.T
    ids = np.argsort(-similar, axis=1)[:, :k]
    return Neighbors(np.take_along_axis(similar, ids, axis=1), ids, ids)


def test_the_limit_is_the_nearest_that_a_held_out_image_is_to_another_picture() -> None:
    keys, entries = unit(60, 1), unit(40, 2)
    limits = nearest_other(nearest(keys, entries), keys.__getitem__)
    assert limits is not None
    assert limits.exact == limits.stored == pytest.approx(float((keys @ entries.T).max()))
    assert limits.images == 60


@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_keys_in_fewer_bits_have_a_limit_of_their_own(noise: float) -> None:
    keys, entries = unit(60, 1), unit(40, 2)
    stored = entries + noise * np.random.default_rng(3).normal(size=entries.shape).astype(np.float32)
    asked: list[int] = []

    def exact(ids: np.ndarray) -> np.ndarray:
        assert (np.diff(ids) > 0).all()
        asked.extend(ids.tolist())
        return entries[ids]

    limits = nearest_other(nearest(keys, stored), keys.__getitem__, exact)
    assert limits is not None
    assert limits.exact == pytest.approx(float((keys @ entries.T).max()), abs=1e-6)
    assert limits.stored == pytest.approx(float((keys @ stored.T).max()), abs=1e-6)
    assert limits.stored != limits.exact
    assert asked


def test_an_unseen_copy_in_the_holdout_does_not_make_all_copies_others() -> None:
    entries = unit(40, 2)
    limits = nearest_other(nearest(entries[:5], entries), entries.__getitem__)
    assert limits is not None
    assert limits.exact == CLOSEST


def test_of_two_sets_of_images_the_larger_limits_hold() -> None:
    one, other = SameAs(exact=0.9, stored=0.95, images=3), SameAs(exact=0.92, stored=0.94, images=4)
    assert larger(one, other) == SameAs(exact=0.92, stored=0.95, images=7)
    assert larger(one, None) == larger(None, one) == one
    assert larger(None, None) is None


def test_of_images_without_entries_there_is_no_limit() -> None:
    nothing = Neighbors(np.full((3, 2), -1, np.float32), np.full((3, 2), -1), np.full((3, 2), -1))
    assert nearest_other(nothing, unit(3, 1).__getitem__) is None
    assert nearest_other(nearest(unit(0, 1), unit(4, 2)), unit(0, 1).__getitem__) is None
    short = nearest(unit(3, 1), unit(1, 2), 1)
    padded = Neighbors(*(np.concatenate((part, np.full((3, 1), -1, part.dtype)), axis=1) for part in short))
    limits = nearest_other(padded, unit(3, 1).__getitem__, unit(1, 2).__getitem__)
    assert limits is not None
    assert limits.exact == pytest.approx(limits.stored)

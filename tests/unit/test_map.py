"""Where entries lie on a map."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.curation.map import by_components, mirrored, positions, principal_axes, sampled
from secondlook.model.added.overlay import Overlay
from secondlook.model.errors import NothingTaughtError
from secondlook.model.stores.added_keys import added_id
from secondlook.model.stores.store import ExactStore


def cache_of(keys: Any, is_mirrored: Any = None) -> Overlay:
    keys = np.asarray(keys, np.float32)
    own: Any = SimpleNamespace(
        manifest=SimpleNamespace(classes=("a", "b"), equal_classes=2),
        store=ExactStore(keys, np.zeros(len(keys), np.int64)),
        counts=np.array([len(keys), 0]),
        entries=SimpleNamespace(mirrored=lambda: np.zeros(len(keys), bool) if is_mirrored is None else is_mirrored),
    )
    return Overlay(own)


@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(2, 30))
def test_the_axes_are_the_principal_components(seed: int, count: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    # Variances that lie apart, so that the components are what they are and not any mixture.
    keys = (random.normal(size=(count, dim)) @ np.diag(0.3 ** np.arange(dim))).astype(np.float32)
    axes = principal_axes(keys)
    seen = axes.of(keys).astype(np.float64)
    exact = np.linalg.svd((keys - keys.mean(axis=0)).astype(np.float64), full_matrices=False)[1]
    assert np.sqrt((seen**2).sum(axis=0)) == pytest.approx(exact[:2], rel=2e-3, abs=2e-3 * exact[0])
    assert np.linalg.norm(axes.directions, axis=0) == pytest.approx([1, 1], abs=1e-4)
    np.testing.assert_array_equal(principal_axes(keys).directions, axes.directions)


@pytest.mark.parametrize("keys", [np.ones((1, 3)), np.ones((5, 3)), np.arange(4)[:, None] * np.ones((4, 3)), np.eye(1)])
def test_where_keys_do_not_differ_the_map_is_flat(keys: Any) -> None:
    seen = principal_axes(np.asarray(keys, np.float32)).of(np.asarray(keys, np.float32))
    assert seen.shape == (len(keys), 2)
    assert np.isfinite(seen).all()
    assert np.abs(seen[:, 1]).max() < 1e-3


def test_all_entries_are_seen_from_directions_found_on_some() -> None:
    keys = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    store = ExactStore(keys, np.zeros(500, np.int64))
    some = sampled(store, 7)
    np.testing.assert_array_equal(some, keys[[0, 83, 166, 249, 332, 415, 499]])
    assert sampled(store).shape == (500, 6)
    axes = principal_axes(some)
    np.testing.assert_allclose(positions(store, axes), axes.of(keys), rtol=1e-5, atol=1e-5)


def test_mirrored_copies_are_left_out_and_what_was_taught_is_on_it() -> None:
    random = np.random.default_rng(0)
    cache = cache_of(random.normal(size=(6, 4)), np.array([False, True] * 3)).changed(
        2,
        b"",
        labels={},
        images={7: ("b", {copy: random.normal(size=4).astype(np.float32) for copy in (False, True)})},
        corrections={0: None, 3: None},
    )
    assert mirrored(cache).tolist() == [True, False, False, True, False, True]
    found = by_components(cache)
    assert found.ids.tolist() == [2, 4, added_id(7)]
    assert found.positions.shape == (3, 2)


def test_there_is_no_map_of_nothing() -> None:
    with pytest.raises(NothingTaughtError):
        by_components(cache_of(np.empty((0, 3))))

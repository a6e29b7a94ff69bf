"""What to label next: the order of a made-up pool, by a real predictor of what is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.curation.clusters import SPACE, clusters_of, space_of, typicality
from secondlook.curation.suggest import BATCH, PER_CLASS, Suggestions, suggest
from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError
from tests.networks_for_tests import colour_backbone, written
from tests.service_for_tests import open_predictor


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a network without a head, and of no entries."""
    root = tmp_path_factory.mktemp("nothing")
    network = written(colour_backbone(), root, "backbone")
    generation = index(nothing(), root / "bundles", FromNetwork(str(network)), IndexOptions())
    return open_bundle(root / "bundles", generation, threads=1, even_empty=True)


def unit(keys: Any) -> Floats:
    made = np.asarray(keys, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)  # type: ignore[no-any-return]


def around(dim: int, *groups: tuple[int, int], spread: float = 0.12, seed: int = 0) -> Floats:
    """So many keys around each axis that is named."""
    random = np.random.default_rng(seed)
    return np.concatenate([unit(np.eye(dim)[axis] + random.normal(0, spread, (count, dim))) for axis, count in groups])


def knowing(bundle: Bundle, *taught: tuple[str, Floats]) -> Predictor:
    """A predictor that was taught keys (n,D) under labels."""
    images = {}
    for label, keys in taught:
        images.update({1 + len(images) + row: (label, {False: key}) for row, key in enumerate(keys)})
    overlay = Overlay(bundle)
    return Predictor(bundle, overlay.changed(1, overlay.token, labels={}, images=images, corrections={}))


def of(predictor: Predictor, keys: Floats, logits: Floats | None = None, **options: Any) -> Suggestions:
    given = np.empty((len(keys), predictor.bundle.engine.classes), np.float32) if logits is None else logits
    return suggest(predictor, keys, given, **options)


def test_where_nothing_is_known_each_group_is_asked_for_the_largest_first(empty: Bundle) -> None:
    keys = around(empty.store.dim, (0, 10), (1, 40), (2, 20), spread=0.2)
    found = of(knowing(empty), keys, count=3)
    assert [one.place // 10 for one in found.suggested] == [pytest.approx(2.5, abs=1.5), pytest.approx(5.5, abs=1), 0]
    assert [one.like for one in found.suggested] == [40, 20, 10]
    assert found.suggested[0].why == "typical of 40 photos"
    assert {one.reason for one in found.suggested} == {"typical"}
    assert {(one.labels, one.margin, one.similarity) for one in found.suggested} == {((), None, None)}
    assert (found.images, found.known, found.alike) == (70, 0, 0)


def test_the_most_typical_of_a_group_is_in_its_middle(empty: Bundle) -> None:
    dim = empty.store.dim
    keys = np.concatenate((around(dim, (0, 30), spread=0.25), unit([np.eye(dim)[0]])))
    (one,) = of(knowing(empty), keys, count=1).suggested
    assert one.place == 30


def test_a_group_of_which_one_is_known_waits(empty: Bundle) -> None:
    dim = empty.store.dim
    keys = around(dim, (0, 40), (1, 20), (2, 10), spread=0.08)
    known = around(dim, (0, 1), spread=0.08, seed=1)
    found = of(knowing(empty, ("one", known)), keys, count=2)
    assert [one.like for one in found.suggested] == [20, 10]
    assert [one.why for one in found.suggested] == [f"typical of {n} photos like none that is known" for n in (20, 10)]
    assert [one.labels for one in found.suggested] == [("one",), ("one",)]


def test_the_order_is_the_same_each_time_and_does_not_depend_on_how_many_are_asked_for(empty: Bundle) -> None:
    keys = around(empty.store.dim, *((axis, 20) for axis in range(6)), spread=0.3)
    long = of(knowing(empty), keys, count=3 * BATCH)
    assert long == of(knowing(empty), keys.copy(), count=3 * BATCH)
    assert long.suggested[:BATCH] == of(knowing(empty), keys, count=BATCH).suggested


def test_what_is_nearly_known_or_suggested_is_not_suggested(empty: Bundle) -> None:
    random, dim = np.random.default_rng(0), empty.store.dim
    few = around(dim, *((axis, 3) for axis in range(8)), spread=0.3)
    thrice = unit(np.repeat(few, 3, axis=0) + random.normal(0, 0.005, (72, dim)))
    found = of(knowing(empty, ("one", few[:2])), thrice, count=100)
    places = [one.place for one in found.suggested]
    near = thrice[places] @ thrice[places].T - np.eye(len(places))
    assert near.max() < 0.95
    assert found.known >= 6
    assert not set(places) & set(range(6))
    assert len(places) + found.known + found.alike == 72
    everything = of(knowing(empty), thrice, count=100, similar=1.0)
    assert (len(everything.suggested), everything.alike) == (72, 0)


def test_once_enough_is_known_what_is_hardest_to_tell_comes_first_spread_over_what_it_shows(empty: Bundle) -> None:
    dim = empty.store.dim
    labels = ("ant", "bee", "cow")
    known = [(label, around(dim, (axis, PER_CLASS), seed=axis)) for axis, label in enumerate(labels)]
    random = np.random.default_rng(5)
    eye = np.eye(dim)
    sure = around(dim, (0, 30), (1, 30), (2, 30), seed=9)
    between = [unit(eye[a] + eye[b] + random.normal(0, 0.03, (5, dim))) for a, b in ((0, 1), (1, 2))]
    keys = np.concatenate((sure, *between))
    found = of(knowing(empty, *known), keys, count=4, similar=0.999)
    assert {one.place >= 90 for one in found.suggested} == {True}
    assert {frozenset(one.labels) for one in found.suggested} == {
        frozenset(("ant", "bee")),
        frozenset(("bee", "cow")),
    }
    first = found.suggested[0]
    assert first.reason == "close"
    assert first.why.startswith(f"hard to tell: {first.labels[0]} ")
    assert first.why.endswith(" %")
    assert first.margin is not None
    assert first.margin < 0.5
    rest = of(knowing(empty, *known), sure[:20], count=20, similar=0.999).suggested
    assert {one.reason for one in rest} == {"sure"}


def test_network_and_cache_that_disagree_are_told(tiny_bundle: Path) -> None:
    predictor = open_predictor(tiny_bundle)
    keys, values = next(iter(predictor.store.chunks()))
    assert len(values) >= PER_CLASS * len(predictor.classes)
    random = np.random.default_rng(0)
    asked = unit(keys[:6] + random.normal(0, 0.4 / np.sqrt(keys.shape[1]), keys[:6].shape))
    logits = np.zeros((6, predictor.bundle.engine.classes), np.float32)
    said = predictor.of_keys(logits, asked)
    others = [(int(answer.cache.argmax()) + 1) % len(predictor.classes) for answer in said]
    logits[np.arange(6), others] = 3.0
    found = of(predictor, asked, logits, count=6, similar=1.0)
    assert len(found.suggested) == 6
    for one in found.suggested:
        if one.reason != "disagree":
            assert one.reason == "typical"
            assert "unlike all that is known" in one.why
            continue
        name = predictor.classes[others[one.place]]
        assert one.why.startswith(f"network and cache disagree: {name} or ")
    assert "disagree" in {one.reason for one in found.suggested}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**31), st.booleans(), st.sampled_from((0.5, 0.95, 1.0)))
def test_each_photo_is_suggested_once_or_has_one_like_it(
    empty: Bundle, count: int, known: int, seed: int, is_one: bool, similar: float
) -> None:
    random = np.random.default_rng(seed)
    keys = unit(random.normal(size=(count, empty.store.dim)) * (not is_one) + 1e-3 + np.eye(count, empty.store.dim))
    if is_one:
        keys[:] = keys[0]
    taught = unit(random.normal(size=(known, empty.store.dim)) + 1e-3) if known else keys[:0]
    labels = [(f"label {row % 2}", taught[row : row + 1]) for row in range(known)]
    found = of(knowing(empty, *labels), keys, count=2 * count, similar=similar)
    places = [one.place for one in found.suggested]
    assert len(set(places)) == len(places)
    assert set(places) <= set(range(count))
    assert len(places) + found.known + found.alike == count


def test_wrong_parameters_are_named(empty: Bundle) -> None:
    keys = around(empty.store.dim, (0, 3))
    for options, sentence in (({"count": 0}, "count must be"), ({"similar": 0}, "above 0"), ({"similar": 1.5}, "1.5")):
        with pytest.raises(ParameterError, match=sentence):
            of(knowing(empty), keys, **options)


def test_clusters_are_those_that_there_are() -> None:
    keys = around(200, (0, 30), (1, 20), (2, 10), spread=0.02)
    space = space_of(keys)
    assert space.shape == (60, SPACE)
    np.testing.assert_allclose(
        np.linalg.norm(space[:1] - space, axis=1), np.linalg.norm(keys[:1] - keys, axis=1), atol=0.15
    )
    found = clusters_of(space, 3)
    assert [len(set(found[part].tolist())) for part in (slice(0, 30), slice(30, 50), slice(50, 60))] == [1, 1, 1]
    assert len(set(found.tolist())) == 3
    assert len(set(clusters_of(space[[0] * 5 + [40] * 5], 4).tolist())) == 2
    assert typicality(space[:1]).tolist() == [0]

"""What an audit finds, in a store that was made up for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secondlook.curation.audit import Audit, audit
from secondlook.curation.contact_sheets import Cell, contact_sheet, write_sheets
from secondlook.curation.neighbors import images_of
from secondlook.evaluation.studies.planted import plant, planted
from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import NothingTaughtError, ParameterError
from secondlook.model.stores.added_keys import added_id
from secondlook.model.stores.store import ExactStore

CLASSES = ("ant", "bee", "cow")


def bundle_of(keys: Floats, values: Ints, sources: list[str], k: int | None = 5, theta: float = 20.0) -> Any:
    """As much of a bundle as an audit looks at."""
    return SimpleNamespace(
        manifest=SimpleNamespace(
            classes=CLASSES,
            equal_classes=len(CLASSES),
            theta=theta,
            k=k,
            generation="20261126T000000Z-0000",
            dataset=SimpleNamespace(name="made", split="train"),
            store=SimpleNamespace(factory="Flat"),
        ),
        store=ExactStore(keys, values),
        counts=np.bincount(values, minlength=len(CLASSES)),
        entries=SimpleNamespace(sources=lambda: list(sources)),
    )


def cache_of(keys: Floats, values: Ints, sources: list[str], k: int | None = 5, theta: float = 20.0) -> Overlay:
    """The same as a cache to which nothing was taught."""
    return Overlay(bundle_of(keys, values, sources, k, theta))


def unit(keys: Any) -> Floats:
    made = np.asarray(keys, np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def groups(each: int = 20, mirrored: bool = True) -> tuple[Floats, Ints, list[str]]:
    """Three clusters, a class each; the copies of an image lie right beside it."""
    random = np.random.default_rng(0)
    values = np.repeat(np.arange(3), each)
    keys = unit(np.eye(8)[values] + random.normal(0, 0.12, (3 * each, 8)))
    sources = [f"{i:03d}.png" for i in range(3 * each)]
    if mirrored:
        keys = np.concatenate((keys, unit(keys + random.normal(0, 0.001, keys.shape))))
        values, sources = np.tile(values, 2), sources * 2
    return keys, values, sources


def test_a_wrong_label_is_found_first_and_the_right_one_suggested() -> None:
    keys, values, sources = groups()
    values[[7, 67]] = 2  # an image of ants and its mirrored copy
    found = audit(cache_of(keys, values, sources))
    first = found.suspects[0]
    assert (first.id, first.source, first.given, first.suggested) == (7, "007.png", "cow", "ant")
    assert first.score > 4
    assert first.suggested_vote > 0.95 > 0.05 > first.given_vote
    assert [suspect.id for suspect in found.suspects] == [7]


def test_a_mirrored_copy_does_not_vouch_for_its_own_image() -> None:
    keys, values, sources = groups()
    values[[7, 67]] = 2
    # At this theta the copy alone would outvote all others: it is the nearest by far.
    alone = audit(cache_of(keys, values, sources, theta=2000.0))
    assert [suspect.id for suspect in alone.suspects] == [7]
    # Under another name it does vouch.
    named = audit(cache_of(keys, values, [*sources[:60], *(f"copy of {name}" for name in sources[60:])], theta=2000.0))
    assert not named.suspects


def test_near_duplicates_are_pairs_of_different_images_each_once() -> None:
    keys, values, sources = groups(mirrored=True)
    keys[25], keys[85] = keys[3], keys[63]  # a bee that is an ant
    keys[50] = keys[51]  # two cows; of their mirrored copies, one stays what it was
    found = audit(cache_of(keys, values, sources), similar=0.9999)
    (across,) = found.across
    assert across.ids == (3, 25)
    assert across.labels == ("ant", "bee")
    assert across.similarity == pytest.approx(1.0, abs=1e-5)
    assert [pair.ids for pair in found.within] == [(50, 51)]
    assert (found.across_count, found.within_count) == (1, 1)
    assert audit(cache_of(keys, values, sources), similar=0.5, listed=4).within_count > 4


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(4, 25), st.integers(1, 3))
def test_unused_entries_are_those_of_brute_force(seed: int, k: int, images: int, copies: int) -> None:
    random = np.random.default_rng(seed)
    image = random.permutation(np.repeat(np.arange(images), copies))
    keys = unit(random.normal(size=(len(image), 4)))
    values = (image % 3).astype(np.int64)
    found = audit(cache_of(keys, values, [str(i) for i in image], k=k))
    similarities = keys.astype(np.float64) @ keys.T
    uses = np.zeros(len(image), int)
    for i, row in enumerate(similarities):
        others = np.flatnonzero(image != image[i])
        uses[others[np.argsort(-row[others])][:k]] += 1
    assert [one.id for one in found.unused] == np.flatnonzero(uses == 0)[: found.listed].tolist()
    assert found.unused_count == (uses == 0).sum()
    assert sum(few for few, _ in found.unused_by_class.values()) == found.unused_count
    assert found.uses == (uses.min(), int(np.median(uses)), uses.max())


def test_an_image_alone_in_its_store_is_not_doubted() -> None:
    found = audit(cache_of(unit(np.eye(2)), np.array([1, 1]), ["a.png", "a.png"]))
    assert (found.images, found.entries, found.unused_count) == (1, 2, 2)
    assert not found.suspects


def test_the_nearest_images_of_a_suspect_are_told_with_their_shares_of_the_vote() -> None:
    keys, values, sources = groups()
    values[[7, 67]] = 2
    (suspect,) = audit(cache_of(keys, values, sources)).suspects
    similarities = keys[7].astype(np.float64) @ keys.T
    similarities[[7, 67]] = -np.inf
    nearest = np.argsort(-similarities)[:5]
    assert [near.id for near in suspect.neighbors] == nearest.tolist()
    assert [near.similarity for near in suspect.neighbors] == pytest.approx(similarities[nearest].tolist(), abs=1e-5)
    shares = np.exp(20 * similarities[nearest])
    assert [near.weight for near in suspect.neighbors] == pytest.approx((shares / shares.sum()).tolist(), abs=1e-4)
    assert {near.label for near in suspect.neighbors} == {"ant"}
    assert audit(cache_of(keys, values, sources), listed=1).suspects[0].neighbors
    assert not audit(cache_of(keys, values, sources), listed=0).suspects[0].neighbors


def test_what_was_found_right_is_not_asked_again_until_it_has_another_label() -> None:
    keys, values, sources = groups()
    values[[7, 67]] = 2
    found = audit(cache_of(keys, values, sources), confirmed={"007.png": "cow", "001.png": "ant"})
    assert (found.suspects, found.confirmed) == ((), 1)
    values[[7, 67]] = 1
    again = audit(cache_of(keys, values, sources), confirmed={"007.png": "cow"})
    assert ([suspect.given for suspect in again.suspects], again.confirmed) == (["bee"], 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_a_cache_that_was_taught_is_audited_as_one_that_was_made_so(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    keys, values, sources = groups(each=6, mirrored=False)
    new = unit(random.normal(size=(4, 8)) + 2 * np.eye(8)[[0, 1, 2, 3]])
    labels = ["bee", "ant", "dog", "dog"]  # one class is new
    removed, relabelled = random.choice(len(values), 2, replace=False).tolist()
    cache = Overlay(bundle_of(keys, values, sources, k)).changed(
        3,
        b"",
        labels={1: "dog"},
        images={i + 1: (label, {False: key}) for i, (label, key) in enumerate(zip(labels, new, strict=True))},
        corrections={removed: None, relabelled: "dog"},
    )
    found = audit(cache)
    names = (*CLASSES, "dog")
    left = np.delete(np.arange(len(values)), removed)
    now = values.copy()
    now[relabelled] = 3
    bundle = bundle_of(
        np.concatenate((keys[left], new)),
        np.concatenate((now[left], [names.index(label) for label in labels])),
        [*(sources[i] for i in left), *(f"taught:{i}" for i in range(1, 5))],
        k,
    )
    bundle.manifest.classes, bundle.counts = names, cache.counts
    same = audit(Overlay(bundle))
    ids = [*left.tolist(), *(added_id(i) for i in range(1, 5))]
    assert [one.id for one in found.suspects] == [ids[one.id] for one in same.suspects]
    assert [one.suggested for one in found.suspects] == [one.suggested for one in same.suspects]
    assert [one.score for one in found.suspects] == pytest.approx([one.score for one in same.suspects], abs=1e-4)
    assert [[near.id for near in one.neighbors] for one in found.suspects] == [
        [ids[near.id] for near in one.neighbors] for one in same.suspects
    ]
    assert (found.entries, found.change, found.uses) == (same.entries, 3, same.uses)
    assert [one.id for one in found.unused] == [ids[one.id] for one in same.unused]


def test_a_cache_of_nothing_has_nothing_to_look_through() -> None:
    keys, values, sources = groups(each=1, mirrored=False)
    with pytest.raises(NothingTaughtError):
        audit(
            cache_of(keys, values, sources).changed(1, b"", labels={}, images={}, corrections=dict.fromkeys(range(3)))
        )


def test_planting_is_by_image_seeded_and_never_the_label_it_had() -> None:
    images = images_of(cache_of(*groups()))
    assert len(images.first) == 60
    wrong = plant(images, 0.1, 3, seed=4)
    assert (wrong != images.labels).sum() == 6
    np.testing.assert_array_equal(wrong, plant(images, 0.1, 3, seed=4))
    assert (wrong != plant(images, 0.1, 3, seed=5)).any()


def test_planted_labels_are_found_where_classes_lie_apart_and_not_where_they_are_noise() -> None:
    keys, values, sources = groups()
    apart = planted(bundle_of(keys, values, sources), 0.05, seeds=3)
    assert apart.planted == 3
    assert apart.average_precision == (1.0, 1.0, 1.0)
    assert set(apart.precision) == {0.5, 0.8, 0.9}
    assert apart.restored.value == 1.0
    assert apart.doubted_recall.value == 1.0
    assert 0.05 <= apart.doubted.value < 0.1
    noise = np.random.default_rng(1).permutation(60)
    random = planted(bundle_of(keys, values[np.tile(noise, 2) + np.repeat((0, 60), 60)], sources), 0.05, seeds=3)
    assert random.average_precision.value < 0.5
    assert random.average_precision.low <= random.average_precision.value <= random.average_precision.high


def test_only_some_images_can_be_ranked() -> None:
    keys, values, sources = groups()
    some = planted(bundle_of(keys, values, sources), 0.5, seeds=1, sources=sources[:10])
    assert some.images == 10
    assert 0 < some.planted < 10
    with pytest.raises(ParameterError, match="no label was planted among 0 images"):
        planted(bundle_of(keys, values, sources), 0.5, seeds=1, sources=["another.png"])


@pytest.mark.parametrize("wrong", [{"theta": 0.0}, {"k": 0}, {"similar": 0.0}, {"similar": 1.5}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        audit(cache_of(*groups()), **wrong)


@pytest.mark.parametrize("share", [0.0, 0.6, -1.0])
def test_shares_without_meaning_are_refused(share: float) -> None:
    with pytest.raises(ParameterError, match="share of planted labels"):
        planted(bundle_of(*groups()), share)


def doubted() -> Audit:
    keys, values, sources = groups()
    values[[7, 67]] = 2
    return audit(cache_of(keys, values, sources))


def test_a_sheet_shows_the_pictures_there_are(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), "#FF0000")
    (written,) = write_sheets(doubted(), tmp_path / "new", lambda entry_id, source: red if entry_id == 7 else None)
    assert written.name == "suspects.png"
    with Image.open(written) as sheet:
        colours = {colour: count for count, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    assert colours[(255, 0, 0)] > 10_000
    assert write_sheets(doubted(), tmp_path / "none", lambda entry_id, source: None) == []
    assert not (tmp_path / "none").exists()


def test_pictures_keep_their_shape() -> None:
    sheet = contact_sheet("t", [Cell([Image.new("RGB", (64, 32), "#FF0000")], ("",))])
    red = np.argwhere((np.asarray(sheet) == (255, 0, 0)).all(axis=2))
    height, width = red.max(axis=0) - red.min(axis=0) + 1
    assert (height, width) == (63, 126)


def test_long_names_do_not_run_into_the_next_picture() -> None:
    def drawn(name: str) -> Image.Image:
        return contact_sheet("t", [Cell([None], (name,)), Cell([None], ("",))])

    right = (14 + 128 + 14, 0, drawn("").width, drawn("").height)
    assert drawn("x" * 200).crop(right).tobytes() == drawn("").crop(right).tobytes()
    assert drawn("x" * 200).tobytes() != drawn("").tobytes()

"""What a score is worth: figures that can be counted by hand, and intervals that hold them."""

import numpy as np
import pytest

from secondlook.evaluation.statistics.conformal import METHODS, compared
from secondlook.evaluation.statistics.detection import detect
from secondlook.evaluation.studies.unknown_images import BYTES, IMAGES, unknown_images
from secondlook.model.images import Geometry
from secondlook.model.scoring import auroc

RANDOM = np.random.default_rng(0)
KNOWN = {"network": RANDOM.normal(0, 1, 400), "better": RANDOM.normal(0, 1, 400).round(1)}
UNKNOWN = {"network": RANDOM.normal(0.5, 1, 300), "better": RANDOM.normal(2, 1, 300).round(1)}


def test_auroc_counts_pairs_and_halves_ties() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.875
    assert auroc(np.array([3.0]), np.array([1.0])) == 0.0


@pytest.mark.parametrize("name", KNOWN)
def test_figures_are_those_counted_plainly(name: str) -> None:
    found = detect(KNOWN, UNKNOWN, "network", draws=50)[name]
    pairs = np.sign(UNKNOWN[name][:, None] - KNOWN[name][None]) / 2 + 0.5
    assert found.auroc.value == pytest.approx(100 * pairs.mean())
    threshold = min(t for t in KNOWN[name] if (KNOWN[name] <= t).mean() >= 0.95)
    assert found.passed.value == pytest.approx(100 * (UNKNOWN[name] <= threshold).mean())
    stop = min(t for t in KNOWN[name] if (KNOWN[name] > t).mean() <= 0.01)
    assert found.found == pytest.approx(100 * (UNKNOWN[name] > stop).mean())
    assert (found.roc[0], found.roc[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert list(found.roc) == sorted(found.roc)


def test_drawn_figures_are_those_of_the_images_drawn() -> None:
    """Intervals of 200 draws are near those of as many plain counts of images drawn."""
    found = detect(KNOWN, UNKNOWN, "network", draws=200)
    random = np.random.default_rng(5)
    drawn = [
        100 * auroc(random.choice(KNOWN["better"], 400), random.choice(UNKNOWN["better"], 300)) for _ in range(200)
    ]
    interval = found["better"].auroc
    assert interval.low < interval.value < interval.high
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.8)
    better = found["better"].better
    assert better is not None
    assert better.value == pytest.approx(interval.value - found["network"].auroc.value)
    assert better.low > 0
    assert found["network"].better is None


def test_every_way_to_make_sets_holds_what_is_asked() -> None:
    random = np.random.default_rng(0)
    mixed = random.dirichlet(np.full(4, 0.4), 4000).astype(np.float32)
    labels = (mixed.cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
    found = compared(mixed, labels, (0.8, 0.95))
    assert [(sets.method, sets.asked) for sets in found] == [(m, c) for m in METHODS for c in (0.8, 0.95)]
    for sets in found:
        assert sets.asked - 0.02 < sets.got.value < sets.asked + 0.035
    smallest = {c: min(found, key=lambda sets: (sets.asked != c, sets.size)) for c in (0.8, 0.95)}
    assert {sets.method for sets in smallest.values()} == {"LAC"}


@pytest.mark.parametrize("name", ["drawings", "noise"])
def test_made_images_are_always_the_same_and_all_different(name: str) -> None:
    one, other = (unknown_images(name, (24, 32), images=20) for _ in range(2))
    images = [one.read(i, Geometry.covering(24, 32)) for i in range(20)]
    assert one.content_hash() == other.content_hash()
    assert {image.shape for image in images} == {(24, 32, 3)}
    assert len({image.tobytes() for image in images}) == 20
    assert min(image.std() for image in images) > 1


def test_unknown_images_of_a_large_network_fit_into_memory() -> None:
    made = unknown_images("noise", (1000, 1200))
    assert len(made.labels) == BYTES // (1000 * 1200 * 3)
    assert len(unknown_images("noise", (8, 8)).labels) == IMAGES

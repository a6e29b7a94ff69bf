"""What labels say of a network as it was run: by no image's own label, and by no few images."""

import numpy as np
import pytest

from secondlook.indexer.fitting.evidence import (
    Seen,
    head_losses,
    judges,
    lead,
    neighbour_losses,
    softmax,
    surprise,
    table_losses,
)
from secondlook.indexer.fitting.race import CLEARLY, MATTERS, Need, decide
from secondlook.model.cache import Floats
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.keys import unit

LABELS = np.repeat(np.arange(4), 25)
RANDOM = np.random.default_rng(0)


def keys(told: float) -> Floats:
    """Of 100 images: noise, and so much of what their label is."""
    noise = np.random.default_rng(1).normal(0, 1, (100, 16))
    return unit((noise + told * np.eye(16)[LABELS]).astype(np.float32))


def logits(told: float, classes: int = 40) -> Floats:
    """Of a network of other classes, of which three go with each label."""
    random = np.random.default_rng(2)
    found = random.normal(0, 1, (100, classes))
    found[np.arange(100), 10 + 3 * LABELS + random.integers(0, 3, 100)] += told
    return found.astype(np.float32)


@pytest.mark.parametrize("by", [lambda told: neighbour_losses(keys(told), LABELS),
                                lambda told: table_losses(softmax(logits(told)), LABELS)])  # fmt: skip
def test_an_image_does_not_tell_its_own_label(by: object) -> None:
    """Where nothing tells the labels, they surprise at least as much as guesses; else the less, the more it tells."""
    assert callable(by)
    nothing, some, much = (float(by(told).mean()) for told in (0.0, 4.0, 8.0))
    assert nothing > 0.97 * np.log(4)
    assert much < some < nothing


def test_a_table_asks_for_no_class_of_the_labels_name() -> None:
    said = softmax(logits(6.0))
    shuffled = said[:, RANDOM.permutation(40)]
    assert np.allclose(table_losses(shuffled, LABELS), table_losses(said, LABELS), atol=1e-4)


def test_the_heads_own_class_counts_by_the_whole_softmax() -> None:
    match = ClassMatch(tuple((10 + 3 * label, 11 + 3 * label, 12 + 3 * label) for label in range(4)), "class map")
    found = head_losses(softmax(logits(6.0)), LABELS, match)
    whole = np.exp(logits(6.0).astype(np.float64))
    own = np.array([whole[i, 10 + 3 * label : 13 + 3 * label].sum() for i, label in enumerate(LABELS)])
    assert np.allclose(found, -np.log(own / whole.sum(axis=1)), atol=2e-3)


def test_all_that_there_are_are_asked() -> None:
    match = ClassMatch(((10,), (13,), (16,), (19,)), "exact")
    said = softmax(logits(4.0))
    seen = Seen(said, keys(4.0))
    parts = [
        neighbour_losses(seen.keys, LABELS), table_losses(said, LABELS), head_losses(said, LABELS, match)
    ]  # fmt: skip
    assert np.allclose(surprise(seen, LABELS, match), np.mean(parts, axis=0))
    assert np.allclose(surprise(seen, LABELS, None), np.mean(parts[:2], axis=0))
    assert np.allclose(surprise(Seen(None, seen.keys), LABELS, None), parts[0])
    assert judges(None, has_head=False) == ("neighbours",)
    assert judges(None, has_head=True) == ("table", "neighbours")
    assert judges(match, has_head=True) == ("head", "table", "neighbours")


def test_a_class_of_one_image_is_told_by_nobody_and_harms_nothing() -> None:
    labels = LABELS.copy()
    labels[0] = 9
    for found in (neighbour_losses(keys(8.0), labels), table_losses(softmax(logits(8.0)), labels)):
        assert np.isfinite(found).all()
        assert found[0] > 3


def test_a_few_images_decide_nothing_and_small_differences_neither() -> None:
    right = RANDOM.exponential(1, 100)
    worse = right.copy()
    worse[:2] += 9
    assert decide([worse, right], 100, Need(CLEARLY))[0] == "cannot tell"
    assert lead(right, right) == 0
    assert decide([right + MATTERS / 2, right], 100, Need(CLEARLY)) == ("cannot tell", 1)
    assert decide([right + 0.3 + RANDOM.normal(0, 0.5, 100), right], 100, Need(CLEARLY)) == ("beaten", 1)


def test_keys_that_are_only_spread_more_gain_nothing() -> None:
    """A constant part in every key brings all of them together, and says nothing of labels."""
    plain = keys(6.0)
    near = unit(np.concatenate((plain, np.full((100, 1), 2, np.float32)), axis=1))
    assert np.allclose(neighbour_losses(near, LABELS), neighbour_losses(plain, LABELS), rtol=1e-3)
    assert neighbour_losses(near, LABELS, 20).mean() > neighbour_losses(plain, LABELS, 20).mean() + 0.1

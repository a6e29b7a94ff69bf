"""Whether images may be fitted on: told by what the network was trained on, by its user, or by its own surprise."""

import numpy as np
import pytest

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.honest_holdout import (
    ChosenHoldout,
    TrainedOn,
    expected_errors,
    given_holdout,
    tenth_as_holdout,
)
from secondlook.model.cache import softmax
from secondlook.model.errors import DatasetError

CLASSES = ("ant", "bee", "cat", "dog")


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def holdout(seed: int, count: int, *, sure: float, right: float) -> EmbeddedQueries:
    """Images of which a network gets a share right, with logits so far above the others."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), count)
    said = np.where(random.random(count) < right, labels, (labels + 1) % len(CLASSES))
    logits = (sure * np.eye(len(CLASSES))[said]).astype(np.float32)
    return EmbeddedQueries(logits, np.ones((count, 2), np.float32), labels, Looks.of(pictures(seed, count)))


def judged(tenth: EmbeddedQueries, known: TrainedOn | None = None) -> ChosenHoldout:
    return tenth_as_holdout("a tenth", tenth, tenth.looks, known or TrainedOn())


@pytest.mark.parametrize(
    ("sure", "right", "is_honest"),
    [
        (6.0, 0.93, True),  # expects 0.7 %, errs 7 %: as a CIFAR-10 network on new images
        (3.0, 0.68, True),  # expects 13 %, errs 32 %: CIFAR-100
        (6.0, 0.995, False),  # by heart
        (3.2, 0.92, False),  # expects 11 %, errs 8 %: CIFAR-100 on the images that it was trained on
        (1.0, 0.60, False),  # trained to doubt: nothing can be told, and caution is right
    ],
)
def test_a_network_is_new_to_what_surprises_it(sure: float, right: float, is_honest: bool) -> None:
    tenth = holdout(1, 2000, sure=sure, right=right)
    found = judged(tenth)
    assert (found.holdout is not None) == found.info.honest == is_honest
    assert found.trained == "unknown"
    errs, expects, _ = expected_errors(softmax(tenth.logits), tenth.labels)
    assert f"errs on {100 * errs:.1f} %" in found.info.why
    assert f"expects to on {100 * expects:.1f} %" in found.info.why


def test_of_few_images_nothing_is_taken_for_surprise() -> None:
    assert judged(holdout(1, 8, sure=6.0, right=0.8)).holdout is None


def test_a_network_that_is_right_on_everything_says_nothing() -> None:
    assert judged(holdout(1, 500, sure=9.0, right=1.0)).holdout is None


def test_what_a_network_was_trained_on_decides_where_it_was_noted() -> None:
    tenth = holdout(2, 100, sure=6.0, right=1.0)
    digests = tenth.looks.digests
    for trained, honest, answer, left_out in (
        (digests[:0], 100, "no", 0),
        (digests, None, "yes", 0),
        (digests[:30], 70, "yes", 30),
        (Looks.of(pictures(9, 50)).digests, 100, "no", 0),
    ):
        found = judged(tenth, TrainedOn(trained))
        assert found.trained == answer
        assert (len(found.holdout.labels) if found.holdout else None) == honest
        assert found.info.left_out == left_out


def test_its_user_is_believed() -> None:
    by_heart, new = holdout(1, 2000, sure=6.0, right=0.995), holdout(1, 2000, sure=6.0, right=0.9)
    assert judged(by_heart, TrainedOn(said="no")).holdout is not None
    assert judged(new, TrainedOn(said="yes")).holdout is None
    assert judged(new, TrainedOn(said="yes")).trained == "yes"


CACHED = Looks.of(pictures(50, 40))


def named(seen: EmbeddedQueries, names: tuple[str, ...] = CLASSES, known: TrainedOn | None = None) -> ChosenHoldout:
    return given_holdout("mine val", seen, names, CLASSES, CACHED, known or TrainedOn())


def test_cached_images_are_left_out_of_a_holdout_that_is_given() -> None:
    seen = holdout(3, 60, sure=3.0, right=0.9)
    mixed = EmbeddedQueries(
        seen.logits, seen.keys, seen.labels, Looks.joined([CACHED[np.arange(20)], seen.looks[np.arange(20, 60)]])
    )
    found = named(mixed)
    assert found.holdout is not None
    assert (len(found.holdout.labels), found.info.images, found.info.left_out) == (40, 40, 20)
    assert found.holdout.labels.tolist() == seen.labels[20:].tolist()
    trained = named(mixed, known=TrainedOn(seen.looks.digests[20:30]))
    assert (trained.info.images, trained.info.left_out) == (30, 30)


def test_labels_go_by_name() -> None:
    seen = holdout(3, 60, sure=3.0, right=0.9)
    found = named(seen, ("dog", "cat", "bee", "ant"))
    assert found.holdout is not None
    assert found.holdout.labels.tolist() == (3 - seen.labels).tolist()


def test_a_class_that_is_missing_is_said() -> None:
    seen = holdout(3, 60, sure=3.0, right=0.9)
    found = named(seen.part(seen.labels != 2))
    assert found.holdout is not None
    assert found.info.why.endswith("; none are of cat")


@pytest.mark.parametrize(
    ("seen", "names", "sentence"),
    [
        (holdout(3, 9, sure=3.0, right=0.9), ("ant", "bee", "cat", "eel"), r"does not have \(eel\): give --holdout"),
        (EmbeddedQueries(*(2 * [np.ones((9, 4), np.float32)]), np.zeros(9, np.int64), Looks.of(pictures(7, 9))),
         CLASSES, r"are of one class \(ant\), .* give --holdout images of every class"),
        (EmbeddedQueries(*(2 * [np.ones((9, 4), np.float32)]), np.arange(9) % 4, CACHED[np.arange(9)]), CLASSES,
         r"all 9 images of the holdout mine val are in the cache, .* give --holdout others"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_on_is_refused(seen: EmbeddedQueries, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        named(seen, names)

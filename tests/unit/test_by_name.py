"""A dataset's labels are brought to a bundle's classes by name, whatever their order."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import ArrayDataset
from secondlook.indexer.datasets.derived import subset
from secondlook.model.errors import DatasetError
from secondlook.model.images import Geometry

BUNDLE: Any = SimpleNamespace(classes=("ant", "Bee", "cow", "dog"), generation="20261128T000000Z-0000")

HOW = Geometry(height=2, width=2, rule="squash")


def dataset(*classes: str) -> ArrayDataset:
    """Two images of each class."""
    labels = np.repeat(np.arange(len(classes)), 2)
    images = labels.astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return ArrayDataset("made", "test", classes, labels, images, [f"{i}.png" for i in range(len(labels))])


@pytest.mark.parametrize("classes", [BUNDLE.classes, BUNDLE.classes[:2]])
def test_where_labels_are_the_bundles_already_the_dataset_is_the_same_object(classes: tuple[str, ...]) -> None:
    given_ = dataset(*classes)
    assert of_bundle(given_, BUNDLE) is given_


@given(st.permutations(BUNDLE.classes), st.integers(1, 4))
def test_each_image_keeps_the_name_of_its_class(order: list[str], count: int) -> None:
    before = dataset(*order[:count])
    after = of_bundle(before, BUNDLE)
    assert [BUNDLE.classes[label] for label in after.labels] == [before.classes[label] for label in before.labels]
    assert after.content_hash() == before.content_hash()
    assert after.left_out is before.left_out
    assert np.array_equal(after.read(0, HOW), before.read(0, HOW))
    some = subset(after, np.array([1]))
    assert BUNDLE.classes[some.labels[0]] == order[0]
    assert of_bundle(after, BUNDLE) is after


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("ant", "coww"), r"made has the class coww \(the nearest is cow\), which bundle 2026\S+ does not have"),
        (("ant", "bee"), r"the class bee \(the nearest is Bee\)"),
        (("x", "y"), r"the classes x, y, which .* \(it has ant, Bee, cow, dog\): .*secondlook index"),
        (tuple("12345678"), r"the classes 1, 2, 3, 4, 5 and 3 more, which"),
    ],
)
def test_a_class_that_the_bundle_does_not_have_is_named_with_the_nearest(classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        of_bundle(dataset(*classes), BUNDLE)

"""Figures of each class."""

import numpy as np

from secondlook.indexer.fitting.class_figures import class_figures, confusion
from secondlook.model.manifest import ClassFigures


def test_each_class_has_its_images_and_what_they_are_taken_for_most_first() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    said = np.array([0, 2, 2, 1, 1, 1, 0])
    found = class_figures(confusion(np.eye(4, dtype=np.float32)[said], labels), ("a", "b", "c", "d"))
    assert found == (
        ClassFigures(label="a", images=4, right=1, confused=(("c", 2), ("b", 1))),
        ClassFigures(label="b", images=2, right=2),
        ClassFigures(label="c", images=0, right=0),
        ClassFigures(label="d", images=1, right=0, confused=(("a", 1),)),
    )

"""How the images that parameters were fitted on are answered, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secondlook.model.cache import Floats, Ints
from secondlook.model.manifest import ClassFigures

MOST = 5
"""Other classes that are named for each."""


def confusion(probabilities: Floats, labels: Ints) -> Ints:
    """How often images with labels (n,) are answered with each class (C,C), by probabilities (n,C)."""
    count = probabilities.shape[1]
    pairs = labels * count + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def class_figures(answered: Ints, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """The figures of each class, from what ``confusion`` gives (C,C)."""
    found = []
    for label, row in enumerate(answered):
        others = [other for other in np.argsort(-row, kind="stable").tolist() if other != label and row[other]]
        found.append(
            ClassFigures(
                label=names[label],
                images=int(row.sum()),
                right=int(row[label]),
                confused=tuple((names[other], int(row[other])) for other in others[:MOST]),
            )
        )
    return tuple(found)

"""Sets of labels that hold the right one as often as was asked for: how often they do, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.doubt import highest_score, ranked
from secondlook.model.cache import Floats, Ints
from secondlook.model.intervals import Interval, wilson
from secondlook.model.manifest import Ranked

ASKED = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995)
TABLED = (0.9, 0.95, 0.99)
METHODS = {
    "LAC": "LAC: 1 - p (Sadinle et al., 2019)",
    "APS": "APS: sum of p down to the label (Romano et al., 2020)",
    "RAPS": "RAPS: the same, 0.1 more for each label after the second (Angelopoulos et al., 2021)",
}
REGULARISED, FROM_RANK = 0.1, 2


@dataclass(frozen=True)
class Sets:
    """What one coverage gave."""

    method: str
    asked: float
    got: Interval
    """Share of the images whose set holds the right label."""
    size: float
    """Labels in a set, on average."""
    empty: float
    """Share of the sets without a label."""
    single: float
    """Share of the sets of one label."""

    @classmethod
    def of(cls, method: str, asked: float, inside: NDArray[np.bool_], labels: Ints) -> Sets:
        """Measure sets from which labels are in each image's: (N,C)."""
        sizes = inside.sum(axis=1)
        held = int(inside[np.arange(len(labels)), labels].sum())
        return cls(
            method,
            asked,
            wilson(held, len(labels)),
            float(sizes.mean()),
            float((sizes == 0).mean()),
            float((sizes == 1).mean()),
        )


def served(known: Ranked, mixed: Floats, labels: Ints, asked: tuple[float, ...] = ASKED) -> list[Sets]:
    """Measure the sets that are served, by the bundle's calibration, for p(y|x) (N,C)."""
    return [Sets.of("LAC", c, 1.0 - mixed.astype(np.float64) <= highest_score(known, c), labels) for c in asked]


def compared(mixed: Floats, labels: Ints, asked: tuple[float, ...] = TABLED) -> list[Sets]:
    """Measure three methods side by side: each half of the images calibrates the sets of the other."""
    random = np.random.default_rng(0)
    half = random.permutation(len(labels)) < len(labels) // 2
    found = []
    for method, scores in _scores(mixed, random).items():
        own = scores[np.arange(len(labels)), labels]
        known = [ranked(own[part]) for part in (~half, half)]
        for coverage in asked:
            first, second = (highest_score(of, coverage) for of in known)
            found.append(Sets.of(method, coverage, scores <= np.where(half, first, second)[:, None], labels))
    return found


def _scores(mixed: Floats, random: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Each method's nonconformity of each label: (N,C)."""
    p = mixed.astype(np.float64)
    order = np.argsort(-p, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    down_to = np.take_along_axis(np.take_along_axis(p, order, axis=1).cumsum(axis=1), ranks, axis=1)
    # A random part of the label's own share, as in the paper: without it the sets hold too much.
    adaptive = down_to - random.random((len(p), 1)) * p
    return {
        "LAC": 1.0 - p,
        "APS": adaptive,
        "RAPS": adaptive + REGULARISED * np.maximum(0, ranks + 1 - FROM_RANK),
    }

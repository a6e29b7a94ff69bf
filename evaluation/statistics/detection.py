"""How well a score tells unknown images from known ones, and by how much better than another score does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.model.intervals import LEVEL, Interval

Scores = NDArray[np.float64]

DRAWS = 1000
DRAWS_AT_ONCE = 100
ACCEPTED = 0.95
"""Share of known images that a threshold is set to let pass."""

ALARMS = 0.01
"""Share of known images that another threshold is set to stop."""

ROC_POINTS = 201


@dataclass(frozen=True)
class Detection:
    """What one score is worth; higher scores are to mean unknown images."""

    auroc: Interval
    """How often an unknown image scores higher than a known one, in percent."""
    passed: Interval
    """Percent of unknown images that pass where 95 % of the known ones do (known as 'FPR at 95 % TPR')."""
    found: float
    """Percent of unknown images above what 99 % of the known ones are at or below."""
    better: Interval | None
    """By how many points its auroc is above the reference's, on the same images; None for the reference."""
    roc: tuple[tuple[float, float], ...]
    """Shares of known and of unknown images above one threshold after another."""


def detect(
    known: dict[str, Scores], unknown: dict[str, Scores], reference: str, draws: int = DRAWS
) -> dict[str, Detection]:
    """Measure each score of known images (n,) and unknown ones (m,), with 95 % intervals: both are drawn anew.

    All scores see the same draws, so that what makes an image hard for all of them is left out of their differences.
    """
    random = np.random.default_rng(0)
    counts = []
    for count in (len(known[reference]), len(unknown[reference])):
        drawn = np.zeros((draws + 1, count), np.uint8)
        drawn[0] = 1  # the images as they are
        for row in drawn[1:]:
            row += np.bincount(random.integers(0, count, count), minlength=count).astype(np.uint8)
        counts.append(drawn)
    measured = {name: _measure(known[name], unknown[name], *counts) for name in known}
    first = measured[reference][0]
    return {
        name: Detection(
            _interval(auroc),
            _interval(passed),
            100 * float((unknown[name] > np.quantile(known[name], 1 - ALARMS, method="inverted_cdf")).mean()),
            None if name == reference else _interval(auroc - first),
            _roc(known[name], unknown[name]),
        )
        for name, (auroc, passed) in measured.items()
    }


def _measure(
    known: Scores, unknown: Scores, known_counts: NDArray[np.uint8], unknown_counts: NDArray[np.uint8]
) -> tuple[Scores, Scores]:
    """The two figures (draws,) in percent, with images counted as often as they were drawn (draws,n) and (draws,m)."""
    scores = np.concatenate((known, unknown))
    order = np.argsort(scores, kind="stable")
    rising = scores[order]
    before = np.searchsorted(rising, rising, side="left") - 1  # the last lower one; -1 = none
    last = np.searchsorted(rising, rising, side="right") - 1  # the last that is equal
    aurocs, passed = [], []
    for start in range(0, len(known_counts), DRAWS_AT_ONCE):
        rows = slice(start, start + DRAWS_AT_ONCE)
        some, others = known_counts[rows].astype(np.float32), unknown_counts[rows].astype(np.float32)
        as_known = np.concatenate((some, np.zeros_like(others)), axis=1)[:, order]
        as_unknown = np.concatenate((np.zeros_like(some), others), axis=1)[:, order]
        # Counts up to some 10^7 are exact in float32.
        up_to = as_known.cumsum(axis=1)
        padded = np.concatenate((up_to, np.zeros((len(up_to), 1), np.float32)), axis=1)
        lower = (padded[:, before] + up_to[:, last]) / 2
        pairs = len(known) * len(unknown)
        aurocs.append(100 * (as_unknown * lower).sum(axis=1, dtype=np.float64) / pairs)
        at = last[(up_to >= ACCEPTED * len(known)).argmax(axis=1)]
        let = np.take_along_axis(as_unknown.cumsum(axis=1), at[:, None], axis=1)[:, 0]
        passed.append(100 * let.astype(np.float64) / len(unknown))
    return np.concatenate(aurocs), np.concatenate(passed)


def _interval(measured: Scores) -> Interval:
    """Of the images as they are, which come first, and of the draws."""
    low, high = np.quantile(measured[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(measured[0]), float(low), float(high))


def _roc(known: Scores, unknown: Scores) -> tuple[tuple[float, float], ...]:
    thresholds = np.quantile(np.concatenate((known, unknown)), np.linspace(1, 0, ROC_POINTS))
    points = [(float((known > t).mean()), float((unknown > t).mean())) for t in thresholds]
    return ((0.0, 0.0), *dict.fromkeys(points), (1.0, 1.0))

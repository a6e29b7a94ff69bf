"""How good probabilities are: error, calibration, likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints

ECE_BINS = 15


def error_percent(probabilities: Floats, labels: Ints) -> float:
    """Share of rows of (N,C) whose largest probability is not the label's, in percent."""
    return 100.0 * float((probabilities.argmax(axis=1) != labels).mean())


def nll(probabilities: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood of the labels in nats (probabilities below 1e-12 count as that)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def confidence_bins(
    probabilities: Floats, labels: Ints, bins: int = ECE_BINS
) -> tuple[Ints, NDArray[np.float64], Ints]:
    """Rows of (N,C) by their largest probability, in bins of equal width: how many, the sum of it, how many right."""
    return bins_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def bins_of(
    confidence: Floats, right: NDArray[np.bool_], bins: int = ECE_BINS
) -> tuple[Ints, NDArray[np.float64], Ints]:
    """The same of answers (N,): how sure, and whether right."""
    sure = confidence.astype(np.float64)
    # Bins are (low, high], as in the paper.
    where = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(where, minlength=bins).astype(np.int64)
    sums: NDArray[np.float64] = np.bincount(where, weights=sure, minlength=bins).astype(np.float64)
    return counts, sums, np.bincount(where[right], minlength=bins).astype(np.int64)


def ece_percent(probabilities: Floats, labels: Ints, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal width, in percent (Guo et al., 2017, equation 3)."""
    return ece_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def ece_of(confidence: Floats, right: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """The same of answers (N,): how sure, and whether right."""
    _, sums, hits = bins_of(confidence, right, bins)
    return 100.0 * float(np.abs(hits - sums).sum() / len(right))


def auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    """How well a score tells known images (n,) from unknown ones (m,): how often the unknown one's is higher.

    0.5 = not at all, 1 = always; a tie counts as half (the area under the ROC curve).
    """
    rising = np.sort(known)
    below = np.searchsorted(rising, unknown, side="left") + np.searchsorted(rising, unknown, side="right")
    return float(below.mean() / (2 * len(known)))

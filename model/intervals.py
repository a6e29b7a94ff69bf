"""How sure a measured number is: intervals for means, shares, and differences between models on the same images.

The bootstrap draws the images anew with replacement and takes a number's quantiles over the draws (Efron, 1979). It
says how much the number would move with other images of the same kind; the network, the cache and the fitted
parameters stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
LEVEL = 0.95
INDICES_AT_ONCE = 2_000_000
FEW = 16
"""Up to so many distinct values (right and wrong are two), how often each is drawn is drawn at once."""


class Interval(NamedTuple):
    """A measured value, and between which values it lies at the level that was asked for."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether the whole interval lies on one side of a value."""
        return self.low > value or self.high < value

    def text(self, digits: int = 2) -> str:
        """For tables."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[Any]], float] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a mean of values (N,), a resampled unit each, or a statistic of rows (N,...).

    The difference of two models on the same images is the mean of the differences: pass those, and what makes an image
    hard for both is left out. A statistic is called once for each draw, with the rows drawn.

    Raises:
        ValueError: there are no values, or (without a statistic) they are not one number each.
    """
    rows = np.asarray(values)
    if not len(rows) or (statistic is None and rows.ndim != 1):
        raise ValueError(f"cannot resample values of shape {rows.shape}")
    if statistic is None:
        rows = rows.astype(np.float64)
        value = float(rows.mean())
        distinct, counts = np.unique(rows, return_counts=True)
        if len(distinct) <= FEW:
            drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), draws)
            found = drawn @ distinct / len(rows)
        else:
            found = np.concatenate([rows[drawn].mean(axis=1) for drawn in _draws(len(rows), draws, seed)])
    else:
        found = np.array([statistic(rows[row]) for drawn in _draws(len(rows), draws, seed) for row in drawn])
        value = float(statistic(rows))
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high))


def _draws(count: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions (n,count) of resampled rows, draws in all, a few million at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(1, INDICES_AT_ONCE // count)
    for start in range(0, draws, at_once):
        yield generator.integers(0, count, (min(at_once, draws - start), count))


def wilson(successes: int, count: int, *, level: float = LEVEL) -> Interval:
    """Return a share's Wilson score interval (1927): honest where few or all succeed, where a bootstrap has no width.

    Raises:
        ValueError: successes is not between 0 and count, or count is 0.
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"{successes} of {count} is no share")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / count
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5 / (1 + z2 / count)
    # Rounding may leave 1e-17 outside.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))

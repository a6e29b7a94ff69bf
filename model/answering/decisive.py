"""Which of the entries that voted decide an answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints

NOTHING = 1e-6
"""A share of the vote below it is what rounding leaves where all votes were taken away."""


class Decisive(NamedTuple):
    """The fewest entries without which another class would have won."""

    places: list[int]
    """Which of the listed entries."""
    instead: int
    """The class that would have."""


def decisive(
    network: Floats, cache: Floats, lam: float, winner: int, values: Ints, weights: NDArray[np.float64]
) -> Decisive | None:
    """The fewest of the listed entries that decide for the winner; None where another wins only without more of them.

    p_net and p_cache are (C,), values and weights (n,) are the listed entries' classes and shares of p_cache. Votes are
    taken away, and what the others say is normalised anew; where none is left, p_net is the answer, or none is given
    where it is 0 too. What the absence of a winner's entries does depends on the sum of their weights alone: so the
    heaviest first are the fewest.
    """
    own = np.flatnonzero(values == winner)
    own = own[np.argsort(-weights[own], kind="stable")]
    left = np.repeat(cache[None].astype(np.float64), len(own), axis=0)
    left[:, winner] = np.maximum(left[:, winner] - weights[own].cumsum(), 0.0)
    remaining = left.sum(axis=1, keepdims=True)
    has_votes = remaining > NOTHING
    left /= np.where(has_votes, remaining, 1.0)
    answers = np.where(has_votes, (1 - lam) * network + lam * left, network)
    first = np.where(answers.any(axis=1), answers.argmax(axis=1), winner)
    changed = np.flatnonzero(first != winner)
    if not len(changed):
        return None
    return Decisive(own[: changed[0] + 1].tolist(), int(first[changed[0]]))

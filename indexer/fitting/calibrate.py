"""What the holdout says of the answers as they are served: how honest they are, and how far to trust each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.doubt import STANDINGS, ranked, standings_of
from secondlook.model.cache import Floats, Ints, mix
from secondlook.model.manifest import Calibration, Novelty
from secondlook.model.scoring import ece_percent


def calibrate(
    network: Floats, cache: Floats, labels: Ints, lam: float, novelty: Novelty, scores: NDArray[np.float64]
) -> Calibration:
    """What is to be known of answers, from p_net and p_cache (n,C) of the holdout as they are served.

    ``scores`` (n,) are its novelty.
    """
    mixed = mix(network, cache, lam)
    calibration = Calibration(
        novelty=novelty,
        ece_percent_network=ece_percent(network, labels),
        ece_percent_mixed=ece_percent(mixed, labels),
        sets=ranked(1.0 - _of_labels(mixed, labels)),
        credibility=ranked(1.0 - _of_labels(cache, labels)),
    )
    found = standings_of(calibration, scores, mixed, cache)
    shares = {kind: round(100 * found.count(kind) / len(found), 2) for kind in STANDINGS}
    return calibration.model_copy(update={"standing": shares})


def _of_labels(probabilities: Floats, labels: Ints) -> NDArray[np.float64]:
    return probabilities[np.arange(len(labels)), labels].astype(np.float64)

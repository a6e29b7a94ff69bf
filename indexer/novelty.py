"""When an image is novel: the score's weights and its threshold, from images that are known, and some that are not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.cache import Floats
from model.doubt import novelty_scores
from model.manifest import Evidence, Novelty
from model.metrics import auroc

FALSE_ALARM_RATE = 0.01
"""Share of known images that may be called novel."""

NEIGHBOR, SHARE = 1, 0.2
"""The neighbour whose similarity counts, and how much, where the network's energy counts 1; both are in the holdout's
standard deviations. Chosen on CIFAR-10's holdout and training images of CIFAR-100 (docs/doubt.md)."""

NEIGHBORS, SHARES = (1, 10, 50), (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
"""What is tried where images that are unknown are given."""

SMALLEST = 1e-6
"""A standard deviation below it counts as this: the scores of images that are all alike."""


class Seen(NamedTuple):
    """What novelty is told from."""

    similarities: Floats
    """(n,m) of the nearest entries, descending."""
    energies: Floats
    """(n,) of the network."""


class Tried(NamedTuple):
    """A neighbour and a share, and how often an unknown image scores higher than a known one."""

    neighbor: int
    share: float
    auroc: float


def fit_novelty(
    similarities: Floats, energies: Floats | None = None, neighbor: int = NEIGHBOR, share: float = SHARE
) -> Novelty:
    """Novelty by similarities (n,m) and energies (n,) of known images; without energies by the similarity alone."""
    neighbor = min(neighbor, similarities.shape[1])
    nearest = similarities[:, neighbor - 1].astype(np.float64)
    evidence, threshold = None, 0.5
    if energies is not None:
        by_energy = 1.0 / max(float(energies.std(dtype=np.float64)), SMALLEST)
        by_similarity = share / max(float(nearest.std()), SMALLEST)
        found = by_energy * energies + by_similarity * nearest
        limit = float(np.quantile(found, FALSE_ALARM_RATE, method="lower"))
        evidence = Evidence(energy=by_energy, similarity=by_similarity, limit=limit)
    novelty = Novelty(neighbor=neighbor, threshold=threshold, false_alarm_rate=0.0, evidence=evidence)
    scores = novelty_scores(novelty, nearest, energies)
    if evidence is None:
        threshold = float(np.quantile(scores, 1.0 - FALSE_ALARM_RATE, method="higher"))
    rate = float((scores > threshold).mean())
    return novelty.model_copy(update={"threshold": threshold, "false_alarm_rate": rate})


def choose_novelty(known: Seen, unknown: Seen) -> tuple[Novelty, list[Tried]]:
    """The novelty that tells unknown images best from known ones, and all that was tried."""
    most = min(known.similarities.shape[1], unknown.similarities.shape[1])
    tried = []
    for neighbor in sorted({min(n, most) for n in NEIGHBORS}):
        for share in SHARES:
            novelty = fit_novelty(*known, neighbor, share)
            scores = [
                novelty_scores(novelty, seen.similarities[:, neighbor - 1], seen.energies) for seen in (known, unknown)
            ]
            tried.append(Tried(neighbor, share, auroc(*scores)))
    best = max(tried, key=lambda one: one.auroc)
    return fit_novelty(*known, best.neighbor, best.share), tried

"""What the vote itself costs, up to many classes and many neighbours; on random similarities, as only sizes matter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from secondlook.evaluation.timing import median_ms
from secondlook.model.cache import Floats, Ints, mix, vote

CLASSES = (10, 1_000, 100_000)
KS = (50, 200, 2_048)
BATCHES = (1, 32)


@dataclass(frozen=True)
class VoteResult:
    """Milliseconds of vote and mixture for a query."""

    classes: int
    k: int
    batch: int
    ms: float


def votes(for_seconds: float = 0.5) -> list[VoteResult]:
    """Vote and mix for each number of classes, neighbours and queries."""
    random = np.random.default_rng(0)
    results = []
    for classes in CLASSES:
        network = np.full((max(BATCHES), classes), 1 / classes, np.float32)
        for k in KS:
            similarities = -np.sort(-random.random((max(BATCHES), k), np.float32), axis=1)
            values = random.integers(0, classes, (max(BATCHES), k))
            for batch in BATCHES:
                near, labels, given = similarities[:batch], values[:batch], network[:batch]
                work = partial(_answer, near, labels, given)
                results.append(VoteResult(classes, k, batch, median_ms(work, for_seconds) / batch))
    return results


def _answer(similarities: Floats, values: Ints, network: Floats) -> None:
    mix(network, vote(similarities, values, 60.0, network.shape[1]), 0.5)

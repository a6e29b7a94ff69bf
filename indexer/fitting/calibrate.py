"""What the holdout says of the answers as they are served: how honest they are, and how far to trust each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.neighbors import Doubt
from secondlook.indexer.fitting.novelty import Parts, tell_unknown
from secondlook.model.answering.doubt import STANDINGS, novelty_scores, own_evidence, ranked, standings_of
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.manifest import Calibration, Novelty
from secondlook.model.networks.engines import Encoding
from secondlook.model.scoring import ece_percent
from secondlook.model.stores.store import Neighbors


def fit_doubt(
    served: ServedCache,
    holdout: EmbeddedQueries,
    found: Neighbors,
    unknown: Mapping[str, Encoding],
    classes: int,
    parts: Parts | None = None,
) -> Doubt:
    """Fit novelty on a holdout whose nearest entries were found, and on kinds of unknown images.

    ``classes`` is how many of the cache's the bundle has itself, the first ones. ``parts`` are given where the
    holdout's images are among the entries.
    """
    novelty, directions = tell_unknown(served, holdout, found, unknown, classes, parts)
    network = softmax(holdout.logits, served.classes)
    if parts is None or directions is None:
        own = own_evidence(novelty, holdout.logits, network, holdout.keys, directions)
    else:
        own = np.empty(len(network))
        for rows, shape in parts:
            part = holdout.logits[rows], network[rows], holdout.keys[rows]
            own[rows] = own_evidence(novelty, *part, shape.directions())
    return Doubt(novelty, directions, own, novelty_scores(novelty, found.similarities[:, novelty.neighbor - 1], own))


def calibrate(
    network: Floats,
    cache: Floats,
    labels: Ints,
    lam: float,
    novelty: Novelty,
    scores: NDArray[np.float64],
    new: Ints | None = None,
) -> Calibration:
    """What is to be known of answers, from p_net and p_cache (n,C) of the holdout as they are served.

    ``scores`` (n,) are its novelty, ``new`` the classes that the network does not know.
    """
    mixed = mix(network, cache, lam, new)
    calibration = Calibration(
        novelty=novelty,
        ece_percent_network=ece_percent(network, labels) if network.any() else None,
        ece_percent_mixed=ece_percent(mixed, labels),
        sets=ranked(1.0 - _of_labels(mixed, labels)),
        credibility=ranked(1.0 - _of_labels(cache, labels)),
    )
    found = standings_of(calibration, scores, mixed, cache)
    shares = {kind: round(100 * found.count(kind) / len(found), 2) for kind in STANDINGS}
    return calibration.model_copy(update={"standing": shares})


def _of_labels(probabilities: Floats, labels: Ints) -> NDArray[np.float64]:
    return probabilities[np.arange(len(labels)), labels].astype(np.float64)

"""Images that were embedded, answered as a server on a bundle answers them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.neighbors import QUERIES_AT_ONCE
from secondlook.indexer.progress import Progress, silent
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import own_evidence
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, mix, softmax
from secondlook.model.manifest import Calibration


class Answers(NamedTuple):
    """Probabilities (n,C) over an overlay's classes."""

    network: Floats
    """0 without a head."""
    cache: Floats
    mixed: Floats


def answers_of(
    overlay: Overlay,
    asked: EmbeddedQueries,
    calibration: Calibration | None = None,
    progress: Progress = silent,
    stage: str = "vote",
) -> Answers:
    """Answer with a bundle's own parameters, and a quick search where its answers are.

    ``calibration`` is in place of the bundle's own.
    """
    bundle, served = overlay.bundle, ServedCache.of_overlay(overlay)
    manifest = bundle.manifest
    own = Parameters(manifest.theta, manifest.lam, manifest.k)
    calibration = calibration or manifest.calibration
    novelty = calibration.novelty if calibration else None
    network = softmax(asked.logits, len(overlay.classes))
    cache = np.empty_like(network)
    for start in range(0, len(network), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        by_itself = own_evidence(novelty, asked.logits[rows], network[rows], asked.keys[rows], bundle.directions)
        _, cache[rows] = served.search_and_vote(asked.keys[rows], network[rows], own, novelty, by_itself)
        progress(stage, min(start + QUERIES_AT_ONCE, len(network)), len(network))
    return Answers(network, cache, mix(network, cache, manifest.lam, manifest.new_classes(len(overlay.classes))))

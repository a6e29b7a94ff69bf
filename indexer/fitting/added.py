"""A served bundle's calibration, made anew when it is taught: what was taught votes on known images too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from secondlook.indexer.fitting.calibrate import calibrate
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import novelty_scores, own_evidence
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.kept_holdout import HOLDOUT, KeptHoldout
from secondlook.model.cache import Ints, softmax
from secondlook.model.manifest import Calibration

QUERIES_AT_ONCE = 64
"""Few, so that answers get their turn between them."""


def calibrate_with_added(
    bundle: Bundle, overlay: Overlay, step: Callable[[], None] = lambda: None
) -> Calibration | None:
    """The calibration of a bundle with what was taught to it, on what it keeps of its holdout; searches all of that.

    Images of the holdout that were relabelled or removed since count so. It is the manifest's own where nothing was
    taught, or the bundle keeps no holdout. Where no entry is left, only novelty is calibrated. ``step`` is called
    between batches.

    Raises:
        BundleError: the holdout's file is damaged.
        StoreUnreachableError: the store does not answer.
    """
    manifest, before = bundle.manifest, bundle.manifest.calibration
    if before is None or before.sets is None or HOLDOUT not in manifest.files:
        return before
    if not overlay.added.count and not len(overlay.corrections):
        return before
    held, labels = _as_taught(KeptHoldout.read(bundle.path / HOLDOUT), overlay)
    if not len(labels):
        return before
    classes, novelty = len(overlay.classes), before.novelty
    served = ServedCache.of(
        overlay.store, classes, manifest.equal_classes, np.isin(overlay.ids, held.out, assume_unique=True)
    )
    if not served.count:  # the network answers alone, of which nothing was promised
        return before.model_copy(update={"sets": None, "credibility": None, "standing": None})
    network = softmax(held.logits, classes)
    own = held.evidence
    if own is None:
        own = own_evidence(novelty, held.logits, network, held.keys, bundle.directions)
    parameters = Parameters(manifest.theta, manifest.lam, manifest.k)
    cache = np.empty_like(network)
    nearest = np.empty(len(labels), np.float32)
    nth = min(novelty.neighbor, served.count) - 1
    for start in range(0, len(labels), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        if held.same is None:
            found, cache[rows] = served.search_and_vote(held.keys[rows], network[rows], parameters, novelty, own[rows])
        else:
            k = parameters.k or served.count
            found = served.search_others(held.keys[rows], max(k, nth + 1), held.same[rows])
            cache[rows] = served.vote(found.similarities[:, :k], found.values[:, :k], parameters.theta)
        nearest[rows] = found.similarities[:, min(nth, found.similarities.shape[1] - 1)]
        step()
    scores, new = novelty_scores(novelty, nearest, own), manifest.new_classes(classes)
    return calibrate(network, cache, labels, manifest.lam, novelty, scores, new)


def _as_taught(held: KeptHoldout, overlay: Overlay) -> tuple[KeptHoldout, Ints]:
    """The holdout without images that were removed since, and the labels (n,) that it has now."""
    labels = held.labels.copy()
    kept = np.ones(len(labels), bool)
    row_of = {int(entry): row for row, entry in enumerate(held.own) if entry >= 0}
    corrections = overlay.corrections
    for entry, code in zip(corrections.positions.tolist(), corrections.codes.tolist(), strict=True):
        row, label = row_of.get(entry), overlay.label(code)
        if row is not None:
            kept[row] = label is not None
            labels[row] = overlay.index[label] if label is not None else -1
    some = replace(held, labels=labels).part(kept)
    return some, some.labels

"""Cached images asked of all others, by cross-validation: what would be answered without them and their copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.calibrate import fit_doubt
from secondlook.indexer.fitting.class_shape import ClassShape
from secondlook.indexer.fitting.neighbors import Doubt, nearest_entries
from secondlook.indexer.fitting.novelty import TENTH
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.kept_holdout import KeptHoldout
from secondlook.model.cache import Ints
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.store import Neighbors


def nearest_others(
    served: ServedCache, asked: EmbeddedQueries, pictures: Ints, ks: Sequence[int | None], progress: Progress = silent
) -> Neighbors:
    """The nearest entries of cached images, as many as the greatest k, but for those of the same pictures (N,)."""
    most = min(max(TENTH, *(k or 1 for k in ks)), served.count)
    return nearest_entries(served, asked.keys, most, pictures, pictures[asked.own], progress)


def crossed_doubt(
    served: ServedCache,
    asked: EmbeddedQueries,
    folds: Ints,
    pictures: Ints,
    found: Neighbors,
    unknown: Mapping[str, Encoding],
    own_classes: int,
    progress: Progress = silent,
) -> Doubt:
    """How they are told from unknown images, the classes' shapes taken for each of folds (n,) without its images."""
    parts = []
    present = np.unique(folds).tolist()
    for fold in present:
        rows = np.flatnonzero(folds == fold)
        others = replace(served, mask=~np.isin(pictures, pictures[asked.own[rows]]))
        parts.append((rows, ClassShape.of(others.chunks(), others.count, own_classes)))
        progress("calibrate", len(parts), len(present))
    return fit_doubt(served, asked, found, unknown, own_classes, parts)


def keep_crossed(asked: EmbeddedQueries, doubt: Doubt, pictures: Ints) -> KeptHoldout:
    """What a bundle keeps of them, with the entries that show the same picture as each."""
    order = np.argsort(pictures, kind="stable")
    own = pictures[asked.own]
    starts, ends = (np.searchsorted(pictures[order], own, side) for side in ("left", "right"))
    places = starts[:, None] + np.arange(int((ends - starts).max(initial=1)))
    same = np.where(places < ends[:, None], order[np.minimum(places, len(order) - 1)], -1)
    nobody = np.empty(0, np.int64)
    return KeptHoldout(asked.logits, asked.keys, asked.labels, asked.own, nobody, same, doubt.own)

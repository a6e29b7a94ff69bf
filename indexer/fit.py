"""Fitting of theta, lam and k on the holdout, and calibration there: one pass over the similarities for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.novelty import fit_novelty
from indexer.progress import Progress, silent
from model.cache import Floats, Ints, exact_vote, mix, softmax, vote
from model.doubt import energies
from model.manifest import Calibration, FitReport
from model.metrics import ece_percent, error_percent, nll
from model.stores import Store

THETAS = tuple(float(theta) for theta in (5, 7, 10, 14, 20, 28, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200))
LAMS = tuple(round(step * 0.05, 2) for step in range(21))
KS: tuple[int | None, ...] = (10, 25, 50, 100, 200)
QUERIES_AT_ONCE = 250


@dataclass(frozen=True)
class Holdout:
    """Labelled queries that neither the network nor the entries voting on them have seen."""

    logits: Floats
    keys: Floats
    labels: Ints


@dataclass(frozen=True)
class Fitted:
    """What fitting chose, and everything it tried."""

    theta: float
    lam: float
    k: int | None
    report: FitReport
    calibration: Calibration


def fit(
    holdout: Holdout,
    store: Store,
    held_entries: NDArray[np.bool_],
    classes: int,
    *,
    ks: Sequence[int | None] = KS,
    thetas: Sequence[float] = THETAS,
    lams: Sequence[float] = LAMS,
    progress: Progress = silent,
) -> Fitted:
    """Try every (k, theta, lam) on the holdout, its own entries (held_entries (N,) of the store) taking no part.

    The choice is the lowest negative log-likelihood among the cells whose error is within one standard error of the
    lowest: on a few thousand images the single cell with the fewest errors is mostly luck.
    """
    keys, values = entries_less(store, held_entries)
    count = len(values)
    ks = sorted({k if k is None else min(k, count) for k in ks}, key=lambda k: k or count + 1)
    network = softmax(holdout.logits, classes)
    wanted = max(k or 1 for k in ks)
    similarities = np.empty((len(network), min(wanted, count)), np.float32)
    neighbors = np.empty(similarities.shape, np.int64)
    exact = np.empty((len(thetas), len(network), classes), np.float32) if None in ks else None
    for start in range(0, len(network), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        similarities[rows], neighbors[rows] = nearest(holdout.keys[rows], keys, values, similarities.shape[1])
        if exact is not None:
            exact[:, rows] = exact_vote(holdout.keys[rows], [(keys, values)], tuple(thetas), classes)[0]
        progress("fit", min(start + QUERIES_AT_ONCE, len(network)), len(network))
    return choose(
        network,
        holdout.labels,
        similarities,
        neighbors,
        count,
        ks=ks,
        thetas=thetas,
        lams=lams,
        exact=exact,
        energies=energies(holdout.logits, network),
    )


def choose(
    network: Floats,
    labels: Ints,
    similarities: Floats,
    neighbors: Ints,
    entries: int,
    *,
    ks: Sequence[int | None],
    thetas: Sequence[float] = THETAS,
    lams: Sequence[float] = LAMS,
    exact: Floats | None = None,
    energies: Floats | None = None,
) -> Fitted:
    """What ``fit`` chooses, from p_net (n,C) and the nearest entries' similarities and values (n,m) of its images.

    ``entries`` is of how many these are the nearest; ``exact`` (thetas,n,C) is the vote of them all, for k = None;
    ``energies`` (n,) are the network's, for novelty.
    """
    classes = network.shape[1]
    errors = np.empty((len(ks), len(thetas), len(lams)))
    losses = np.empty_like(errors)
    for i, k in enumerate(ks):
        for j, theta in enumerate(thetas):
            if k is None:
                assert exact is not None
                cache = exact[j]
            else:
                cache = vote(similarities[:, :k], neighbors[:, :k], theta, classes)
            for m, lam in enumerate(lams):
                mixed = mix(network, cache, lam)
                errors[i, j, m] = error_percent(mixed, labels)
                losses[i, j, m] = nll(mixed, labels)
    lowest = errors.min() / 100
    allowed = 100 * (lowest + np.sqrt(lowest * (1 - lowest) / len(network)))
    best = min(np.argwhere(errors <= allowed).tolist(), key=lambda cell: float(losses[tuple(cell)]))
    k, theta, lam = ks[best[0]], thetas[best[1]], lams[best[2]]
    cache = (
        exact[best[1]]
        if k is None and exact is not None
        else vote(similarities[:, :k], neighbors[:, :k], theta, classes)
    )
    mixed = mix(network, cache, lam)
    return Fitted(
        theta,
        lam,
        k,
        FitReport(
            images=len(network),
            entries=entries,
            ks=tuple(ks),
            thetas=tuple(thetas),
            lams=tuple(lams),
            error_percent=_rounded(errors),
            nll=_rounded(losses),
            network_error_percent=error_percent(network, labels),
            chosen_error_percent=float(errors[tuple(best)]),
            chosen_nll=float(losses[tuple(best)]),
        ),
        Calibration(
            novelty=fit_novelty(similarities, energies),
            ece_percent_network=ece_percent(network, labels),
            ece_percent_mixed=ece_percent(mixed, labels),
        ),
    )


def entries_less(store: Store, held: NDArray[np.bool_]) -> tuple[Floats, Ints]:
    """Keys and values of the entries that are not held, without a second copy of all keys."""
    keys = np.empty((int((~held).sum()), store.dim), np.float32)
    values = store.values[~held]
    read = written = 0
    for chunk, _ in store.chunks():
        kept = chunk[~held[read : read + len(chunk)]]
        keys[written : written + len(kept)] = kept
        read, written = read + len(chunk), written + len(kept)
    return keys, values


def nearest(queries: Floats, keys: Floats, values: Ints, k: int) -> tuple[Floats, Ints]:
    """Similarities and values of the k nearest keys, descending."""
    similarities = queries @ keys.T
    ids = np.argpartition(similarities, len(keys) - k, axis=1)[:, len(keys) - k :]
    found = np.take_along_axis(similarities, ids, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), values[np.take_along_axis(ids, order, axis=1)]


def _rounded(grid: NDArray[np.float64]) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(round(float(cell), 4) for cell in row) for row in plane) for plane in grid)

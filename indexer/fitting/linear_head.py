"""A linear head: multinomial logistic regression of keys, by scikit-learn, which is needed offline only.

Keys are taken less their mean and scaled to a mean squared length of 1, so that one grid of strengths does for all
networks; both are folded into the weights that come out, which are of the keys as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from secondlook.model.cache import Floats, Ints, class_weights
from secondlook.model.manifest import LinearHead
from secondlook.model.networks.engines import Encoding
from secondlook.model.stores.store import parts

PASSES, PASSES_AT_ONCE = 200, 20
"""Passes of L-BFGS at most, and between two reports."""

EXACT = 10_000
"""Entries of which more are fitted to a gradient of 1e-3, not 1e-4."""

MOST_WORK, MOST_BYTES = 2e10, 256 << 20
"""Products of one pass over the entries, and bytes of their keys, at most: of more entries, some are fitted on. A pass
takes a second or two."""

FEW_PRODUCTS = 1e8
"""A pass of fewer is run by one thread."""

FAR_BELOW = -30.0
"""The logit of a class without entries, below those of others."""

Passes = Callable[[int, int], None]
"""Is told how many passes are done, and how many there are at most."""


def _silent(done: int, most: int) -> None:
    pass


class FittedHead(NamedTuple):
    """Weights (C,D) and a bias (C,): logits are keys times weights, and the bias."""

    weights: Floats
    bias: Floats

    def said(self, seen: Encoding) -> Encoding:
        """The same images with its logits."""
        return Encoding(self.logits(seen.keys), seen.keys)

    def logits(self, keys: Floats) -> Floats:
        """Of keys (n,D): (n,C)."""
        found: Floats = keys @ self.weights.T + self.bias
        return found


@dataclass(frozen=True)
class LinearOpinion:
    """A head for a bundle, and how it was made."""

    head: FittedHead
    info: LinearHead


class Regression:
    """Fits heads to some of the same keys (n,D), with labels (n,) of C classes, again and again.

    Classes from ``known`` on were added, an image at a time: theirs count as in the cache's vote (``class_weights``).

    Of fewer keys than numbers in each, the weights are a sum of keys (the penalty is on their squares), and so found in
    n dimensions in place of D.
    """

    def __init__(self, keys: Floats, labels: Ints, classes: int, known: int | None = None) -> None:
        self._labels, self._classes, self._known = labels, classes, classes if known is None else known
        self._mean = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = keys - self._mean
        squares = sum(float(np.square(centred[part], dtype=np.float64).sum()) for part in parts(*centred.shape))
        self._scale = 1.0 / max(float(np.sqrt(squares / len(centred))), 1e-6)
        self._basis: Floats | None = None
        if len(keys) < keys.shape[1]:
            self._basis, triangle = np.linalg.qr(centred.T)
            centred = np.ascontiguousarray(triangle.T)
        centred *= np.float32(self._scale)
        self._seen = centred

    def fit(self, rows: Ints | slice, strength: float, passes: Passes = _silent) -> FittedHead:
        """The head of some keys, for keys as they are."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        seen, labels = self._seen[rows], self._labels[rows]
        present = np.unique(labels)
        weights = np.zeros((self._classes, seen.shape[1]), np.float32)
        bias = np.zeros(self._classes, np.float32)
        if len(present) > 1:
            tolerance = 1e-4 if len(seen) <= EXACT else 1e-3
            model = LogisticRegression(C=strength, max_iter=PASSES_AT_ONCE, warm_start=True, tol=tolerance)
            by_class = class_weights(np.bincount(labels, minlength=self._classes), self._known)
            counted = None if by_class is None else by_class[labels].astype(np.float32)
            # Threads that wait for each other took 50 times as long on small matrices.
            threads = 1 if seen.size * len(present) < FEW_PRODUCTS else None
            for done in range(PASSES_AT_ONCE, PASSES + 1, PASSES_AT_ONCE):
                with warnings.catch_warnings(), threadpool_limits(threads):
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
                    model.fit(seen, labels, counted)
                passes(done, PASSES)
                if model.n_iter_[0] < PASSES_AT_ONCE:
                    break
            if len(present) == 2:  # of one number, half each: the same softmax, and neither class is the first
                halves = (
                    0.5 * np.concatenate((-model.coef_, model.coef_)),
                    0.5 * np.concatenate((-model.intercept_, model.intercept_)),
                )
                weights[present], bias[present] = halves
            else:
                weights[present], bias[present] = model.coef_, model.intercept_
        whole = weights * np.float32(self._scale)
        if self._basis is not None:
            whole = whole @ self._basis.T
        absent = np.setdiff1d(np.arange(self._classes), present)
        final = bias - whole @ self._mean
        final[absent] = (final[present].min() if len(present) else 0.0) + FAR_BELOW
        return FittedHead(whole.astype(np.float32), final.astype(np.float32))


def bounded(labels: Ints, dim: int, classes: int, most: float = MOST_WORK) -> Ints:
    """The entries, of those with labels (N,), that are fitted on: all, or as many of each class as work allows."""
    count = len(labels)
    wanted = min(max(int(most / (dim * classes)), 2 * classes), MOST_BYTES // (4 * dim))
    if count <= wanted:
        return np.arange(count)
    # Ranks within each class, in an order by chance: the first of each class come first.
    order = np.random.default_rng(0).permutation(count)
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(count) - np.repeat(starts, sizes)
    return np.sort(by_class[np.argsort(rank / np.repeat(sizes, sizes), kind="stable")[:wanted]])

"""Where the keys of each class lie: means and one covariance that all classes share, for RMDS (``answering.doubt``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints

SAMPLE, SAMPLE_WIDE = 16_384, 4_096
"""Entries whose differences from their classes' means are measured; fewer where keys have more than WIDE numbers."""

WIDE = 4_096
ADDED, MOST_ADDED = 1e-3, 1e3
"""Added to each direction's variance, of the mean of all, at least and at most: a direction in which no entry differs
says nothing."""

LEAST = 1e-9
"""That much at least."""

NEVER = -1e30
"""In the place of b_c of a class without entries: it is the nearest to no key."""


@dataclass(frozen=True)
class ClassShape:
    """What RMDS is made of, for all classes or for all but one."""

    solved: NDArray[np.float64]
    """(C,D): the inverse covariance times each class's mean."""
    products: NDArray[np.float64]
    """(C,C): of each class's mean with each of the above."""
    shares: NDArray[np.float64]
    """(C,) of the entries."""
    keys: Floats
    """(n,D): entries spread evenly over all."""
    values: Ints
    """(n,): their classes."""

    @classmethod
    def of(cls, chunks: Iterable[tuple[Floats, Ints]], count: int, classes: int) -> ClassShape:
        """Of ``count`` entries, which come in chunks of keys (n,D) and values (n,): one chunk is kept at a time.

        Entries of classes beyond ``classes`` are left out.
        """
        sums: NDArray[np.float64] | None = None
        counts = np.zeros(classes, np.int64)
        keys, values, step, done = [], [], 1, 0
        for part, labels in chunks:
            if labels.max(initial=0) >= classes:
                part, labels = part[labels < classes], labels[labels < classes]
            if sums is None:
                sums = np.zeros((classes, part.shape[1]))
                step = max(1, -(-count // (SAMPLE if part.shape[1] <= WIDE else SAMPLE_WIDE)))
            order = np.argsort(labels, kind="stable")
            present, first = np.unique(labels[order], return_index=True)
            sums[present] += np.add.reduceat(part[order], first, axis=0, dtype=np.float64)
            counts += np.bincount(labels, minlength=classes)
            rows = slice(-done % step, None, step)
            keys.append(part[rows].copy())
            values.append(labels[rows])
            done += len(part)
        assert sums is not None
        means = sums / np.maximum(counts, 1)[:, None]
        sampled, of = np.concatenate(keys), np.concatenate(values)
        solved = _solve(sampled - means[of].astype(np.float32), means)
        return cls(solved, means @ solved.T, counts / max(1, done), sampled, of)

    def directions(self, without: int | None = None) -> Floats:
        """w_c and b_c of each class in rows (C,D+1), as if the entries of one class were not there."""
        shares = self.shares.copy()
        if without is not None:
            shares[without] = 0
        shares /= max(float(shares.sum()), 1e-300)
        middle, found = shares @ self.solved, np.zeros((len(shares), self.solved.shape[1] + 1), np.float32)
        found[:, :-1] = 2 * (self.solved - middle)
        found[:, -1] = shares @ self.products @ shares - np.diag(self.products)
        found[shares == 0] = 0
        found[shares == 0, -1] = NEVER
        return found


def _solve(differences: Floats, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse covariance of differences (n,D), with a little added, times means (C,D): (C,D)."""
    count, dim = differences.shape
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", differences, differences, dtype=np.float64)
    mean = float(squares.sum()) / (count * dim)
    if dim <= count:
        covariance = (differences.T @ differences).astype(np.float64) / count
        covariance[np.diag_indices(dim)] += max(_share(squares, covariance, dim) * mean, LEAST)
        solved: NDArray[np.float64] = np.linalg.solve(covariance, means.T).T
        return solved
    # Of fewer entries than numbers the smaller matrix is solved (Woodbury's identity).
    products = (differences @ differences.T).astype(np.float64)
    added = max(_share(squares, products / count, dim) * mean, LEAST)
    products[np.diag_indices(count)] += added * count
    within = np.linalg.solve(products, (differences @ means.T.astype(np.float32)).astype(np.float64))
    found: NDArray[np.float64] = (means - (differences.T @ within).T) / added
    return found


def _share(squares: NDArray[np.float64], covariance: NDArray[np.float64], dim: int) -> float:
    """How much of the mean variance is added to a covariance of vectors (n,D) with such squared lengths (n,).

    As much as Ledoit and Wolf (2004, section 3.2) shrink it: of few vectors it is far from that of more, and by
    directions in which none of them happens to differ, new images would all look strange. ``covariance`` may be the
    matrix of their products over n, which has the same norm.
    """
    count = len(squares)
    norm = float(np.square(covariance).sum())
    apart = norm - float(squares.mean()) ** 2 / dim
    error = (float(np.square(squares).mean()) - norm) / count
    shrunk = min(1.0, error / apart) if apart > 0 else 1.0
    return float(np.clip(shrunk / max(1 - shrunk, 1e-9), ADDED, MOST_ADDED))

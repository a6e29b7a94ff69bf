"""Groups of images that look alike to the network, and how typical each is of its own; the same for the same keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from secondlook.model.cache import Floats, Ints

_faiss: Any = faiss  # Its type hints leave these functions out.

SPACE = 64
"""Directions, of those that keys have, in which they are compared: where they differ most."""
PASSES, ROUNDS = 2, 20
"""To find those directions, and of k-means at most."""
NEAR = 20
"""Images that one is typical of if it is near to them (Hacohen, Dekel and Weinshall, 2022, equation 4)."""


def space_of(keys: Floats) -> Floats:
    """Keys (n,D) as (n,d) with d <= SPACE, at about the same distances: what is left out is where they hardly differ.

    Subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4); which axes span the space is no matter to
    distances.
    """
    if keys.shape[1] <= SPACE:
        return np.ascontiguousarray(keys, np.float32)
    basis = np.random.default_rng(0).standard_normal((keys.shape[1], SPACE)).astype(np.float32)
    for _ in range(PASSES):
        basis = np.linalg.qr(keys.T @ (keys @ basis))[0]
    return np.ascontiguousarray(keys @ basis, np.float32)


def clusters_of(points: Floats, count: int) -> Ints:
    """The cluster (n,) of each of points (n,d), of ``count`` or fewer, by k-means; fewer where points are the same."""
    centres = _spread(points, min(count, len(points)))
    kmeans = _faiss.Kmeans(
        points.shape[1],
        len(centres),
        niter=ROUNDS,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points, init_centroids=centres)
    return np.asarray(kmeans.index.search(points, 1)[1][:, 0], np.int64)


def typicality(members: Floats) -> Floats:
    """How near each of a cluster's members (m,d) is to its nearest others there (m,): less far is more typical."""
    near = min(len(members), NEAR + 1)
    if near < 2:
        return np.zeros(len(members), np.float32)
    squares = _faiss.knn(members, members, near)[0]
    return -np.sqrt(np.maximum(squares[:, 1:], 0)).mean(axis=1)  # type: ignore[no-any-return]


def _spread(points: Floats, count: int) -> Floats:
    """Points (c,d), c <= count, to begin with: far from each other rather than by chance.

    k-means++, the best of a few tries for each (Arthur and Vassilvitskii, 2007).
    """
    random = np.random.default_rng(0)
    tries = 2 + int(np.log(count))
    chosen = [int(random.integers(len(points)))]
    squares = np.square(points).sum(axis=1)
    nearest = _squares(points, squares, chosen)[0]
    while len(chosen) < count:
        rising = nearest.cumsum(dtype=np.float64)
        if rising[-1] <= 1e-6 * len(points):  # the others are the same as those
            break
        tried = np.searchsorted(rising, random.random(tries) * rising[-1])
        left = np.minimum(nearest, _squares(points, squares, np.minimum(tried, len(points) - 1)))
        best = int(left.sum(axis=1).argmin())
        chosen.append(int(tried[best]))
        nearest = left[best]
    return np.ascontiguousarray(points[chosen])


def _squares(points: Floats, squares: Floats, rows: Sequence[int] | Ints) -> Floats:
    """Squared distances (m,n) of all points (n,d) to some of them, by the squares (n,) of their lengths."""
    return np.maximum(squares + squares[rows][:, None] - 2 * points[rows] @ points.T, 0)

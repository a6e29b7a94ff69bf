"""A map of a cache: its entries in two dimensions, so that those that are alike lie together.

By principal components it is there at once, and separates little; by t-SNE (openTSNE) it takes minutes with tens
of thousands of entries, and shows groups. Mirrored copies are left out: an image is one point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.progress import Progress, silent
from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import NothingTaughtError, ParameterError
from secondlook.model.stores.added_keys import FIRST_ID
from secondlook.model.stores.store import Store

SAMPLE = 4096
"""Keys, evenly over all, that directions are found on."""
SPARE, ROUNDS = 6, 24
"""Directions followed beyond those that are wanted, and how often all are multiplied with the sample."""
REDUCED = 50
"""Principal components that t-SNE is given."""
PERPLEXITY = 30
EXAGGERATED, ITERATIONS = 250, 500
"""Rounds of t-SNE with and without early exaggeration, as openTSNE's own."""
TOLD_EACH = 10


class Axes(NamedTuple):
    """Where keys are seen from."""

    mean: Floats
    """(D,)."""
    directions: Floats
    """(D,d) unit columns, that of the largest variance first."""

    def of(self, keys: Floats) -> Floats:
        """Keys (n,D) as positions (n,d)."""
        seen: Floats = ((keys - self.mean) @ self.directions).astype(np.float32)
        return seen


def principal_axes(keys: Floats, count: int = 2) -> Axes:
    """The directions (D,count) in which keys (n,D) differ most; the same ones each time.

    Found by multiplying some random directions with the keys again and again (subspace iteration), which never makes a
    D x D matrix. A direction in which the keys do not differ is 0.
    """
    mean: Floats = keys.mean(axis=0, dtype=np.float32)
    centred = keys - mean
    width = min(count + SPARE, *keys.shape)
    directions = np.random.default_rng(0).normal(size=(keys.shape[1], width)).astype(np.float32)
    for _ in range(ROUNDS):
        directions = np.linalg.qr(centred.T @ (centred @ directions))[0].astype(np.float32)
    # Turned within what they span, so that each is a principal component of its own.
    _, strengths, turn = np.linalg.svd(centred @ directions, full_matrices=False)
    found = np.zeros((keys.shape[1], count), np.float32)
    there = min(count, width)
    found[:, :there] = (directions @ turn.T)[:, :there]
    found[:, :there][:, strengths[:there] <= 1e-5 * max(1.0, float(strengths[0]))] = 0
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(count)])
    return Axes(mean, found * np.where(signs == 0, 1, signs).astype(np.float32))


def sampled(store: Store, most: int = SAMPLE) -> Floats:
    """Keys (n,D), evenly over all of a store's, at most so many; reads all of them."""
    rows = np.linspace(0, store.count - 1, min(most, store.count)).astype(np.int64)
    parts, done = [], 0
    for keys, _ in store.chunks():
        here = rows[(rows >= done) & (rows < done + len(keys))]
        parts.append(keys[here - done])
        done += len(keys)
    return np.concatenate(parts)


def positions(store: Store, axes: Axes) -> Floats:
    """All of a store's entries, seen from those axes: (N,d)."""
    return np.concatenate([axes.of(keys) for keys, _ in store.chunks()])


def mirrored(cache: Overlay) -> NDArray[np.bool_]:
    """Whether each of a cache's entries is a mirrored copy: (N,)."""
    ids = cache.ids
    own = cache.bundle.entries.mirrored()
    added = ids >= FIRST_ID
    copies: NDArray[np.bool_] = np.asarray((ids - FIRST_ID) % 2 == 1)
    copies[~added] = own[ids[~added]]
    return copies


class Map(NamedTuple):
    """Entries and where they lie."""

    ids: Ints
    """(N,) ascending."""
    positions: Floats
    """(N,2)."""


def by_components(cache: Overlay) -> Map:
    """A map by the two directions in which the cache's keys differ most.

    Raises:
        NothingTaughtError: there is no entry.
    """
    _require_some(cache)
    axes = principal_axes(sampled(cache.store))
    shown = ~mirrored(cache)
    return Map(cache.ids[shown], positions(cache.store, axes)[shown])


def by_tsne(cache: Overlay, progress: Progress = silent) -> Map:
    """A map by t-SNE of the keys' first principal components.

    Raises:
        NothingTaughtError: there is no entry. ParameterError: openTSNE is not installed.
    """
    _require_some(cache)
    try:
        from openTSNE import TSNE
    except ModuleNotFoundError as error:
        raise ParameterError("t-SNE needs openTSNE: install secondlook with the extra map, or take pca") from error
    shown = ~mirrored(cache)
    ids = cache.ids[shown]
    axes = principal_axes(sampled(cache.store), min(REDUCED, cache.store.dim))
    reduced = positions(cache.store, axes)[shown]
    if len(ids) < 4:  # too few to have neighbours
        return Map(ids, reduced[:, :2])
    whole = EXAGGERATED + ITERATIONS
    rounds = iter(range(TOLD_EACH, whole + 1, TOLD_EACH))

    def tell(*_: object) -> bool:
        progress("map", next(rounds, whole), whole)
        return False

    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(ids) - 1) / 3),
        initialization="pca",
        early_exaggeration_iter=EXAGGERATED,
        n_iter=ITERATIONS,
        random_state=0,
        n_jobs=-1,
        callbacks=tell,
        callbacks_every_iters=TOLD_EACH,
    )
    progress("map", 0, whole)
    return Map(ids, np.asarray(tsne.fit(reduced), np.float32))


def _require_some(cache: Overlay) -> None:
    if not cache.store.count:
        raise NothingTaughtError


def rows_of(cache: Overlay, found: Map) -> Iterator[tuple[int, str, str, float, float]]:
    """A row a point, for people: id, source, label, x and y."""
    for entry_id, (x, y) in zip(found.ids.tolist(), found.positions.tolist(), strict=True):
        entry = cache.entry(entry_id)
        if entry is not None:
            yield entry_id, entry.source, cache.classes[entry.value], round(x, 5), round(y, 5)

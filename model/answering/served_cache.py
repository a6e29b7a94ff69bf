"""The cache as it is served, which predictor, fit, calibration and evaluation all ask.

What parameters and calibration are fitted on must be what answers: the same store, searched with the same settings, the
same class weights, and what was taught.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.early_exit import early_exit_search
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.cache import Floats, Ints, class_weights, exact_vote, reweigh, vote
from secondlook.model.manifest import Novelty
from secondlook.model.stores.merged_store import without
from secondlook.model.stores.store import Neighbors, Store


class Parameters(NamedTuple):
    """How network and cache are mixed."""

    theta: float
    lam: float
    k: int | None
    """None = all entries."""


@dataclass(frozen=True)
class ServedCache:
    """Entries that vote, and how much each of them counts."""

    store: Store
    classes: int
    class_weights: NDArray[np.float64] | None = None
    """(C,); None = all count the same."""
    mask: NDArray[np.bool_] | None = None
    """(N,) which of the store's entries take part; None = all."""

    @classmethod
    def of(cls, store: Store, classes: int, known: int, out: NDArray[np.bool_] | None = None) -> ServedCache:
        """Entries of ``classes`` classes, the first ``known`` of which count alike; those in out (N,) left out.

        A class that was taught weighs by the entries that take part, so that it counts here as it does among all.
        """
        mask = ~out if out is not None and out.any() else None
        values = store.values if mask is None else store.values[mask]
        return cls(store, classes, class_weights(np.bincount(values, minlength=classes), known), mask)

    @classmethod
    def of_overlay(cls, overlay: Overlay) -> ServedCache:
        """A generation with its overlay."""
        return cls(overlay.store, len(overlay.classes), overlay.class_weights)

    @property
    def count(self) -> int:
        """How many entries take part."""
        return self.store.count if self.mask is None else int(self.mask.sum())

    @property
    def most(self) -> int:
        """The most entries that it is of use to search for; where there is none, the one place without any is found."""
        return max(1, self.count)

    def with_store(self, store: Store) -> ServedCache:
        """The same entries, searched in another way."""
        return replace(self, store=store)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """Keys (n,D) and values (n,) of the entries that take part, a chunk at a time, as the store decodes them."""
        start = 0
        for keys, values in self.store.chunks():
            kept = None if self.mask is None else self.mask[start : start + len(keys)]
            start += len(keys)
            if kept is None or kept.all():
                yield keys, values
            elif kept.any():
                yield keys[kept], values[kept]

    def vote(self, similarities: Floats, values: Ints, theta: float) -> Floats:
        """p_cache (B,C) by neighbours' similarities and values (B,k)."""
        return reweigh(vote(similarities, values, theta, self.classes), self.class_weights)

    def exact_vote(self, keys: Floats, thetas: tuple[float, ...]) -> Floats:
        """p_cache (len(thetas),B,C) of keys (B,D) by all entries that take part."""
        votes = exact_vote(keys, self.chunks(), thetas, self.classes)[0]
        if self.class_weights is None:
            return votes
        return np.stack([reweigh(of_theta, self.class_weights) for of_theta in votes])

    def search(self, keys: Floats, k: int) -> Neighbors:
        """The k nearest of the entries that take part."""
        return self.store.search(keys, k, self.mask)

    def search_others(self, keys: Floats, k: int, same: Ints) -> Neighbors:
        """The k nearest of the entries that take part, but for some (B,m) for each key; -1 = none."""
        hits = self.search(keys, min(k + same.shape[1], self.most))
        is_same = (hits.ids[:, :, None] == same[:, None, :]).any(axis=2)
        return without(hits, is_same, k)

    def search_and_vote(
        self,
        keys: Floats,
        network: Floats,
        parameters: Parameters,
        novelty: Novelty | None = None,
        own: NDArray[np.float64] | None = None,
        timer: StageTimer | None = None,
    ) -> tuple[Neighbors, Floats]:
        """Some of the nearest entries of keys (B,D), and p_cache (B,C), under the bundle's own parameters.

        Network is p_net (B,C), ``own`` (B,) is what else than neighbours speaks for images' being known. With k = None
        no more neighbours are looked for than novelty goes by.
        """
        theta, lam, k = parameters
        nth = novelty.neighbor if novelty is not None else 1
        if k is None or nth > k:
            hits = self.search(keys, min(max(nth, k or 1), self.most))
            if k is None:
                return hits, self.exact_vote(keys, (theta,))[0]
            return hits, self.vote(hits.similarities[:, :k], hits.values[:, :k], theta)
        return early_exit_search(
            self.store,
            keys,
            network,
            theta,
            lam,
            min(k, self.most),
            novelty,
            mask=self.mask,
            timer=timer,
            own=own,
            class_weights=self.class_weights,
        )

"""Looking for neighbours only as far as the answer depends on them.

Most images lie deep within one class: their first few neighbours settle the answer, and the hundreds after them would
only confirm it. So a bundle may have a quick search, a small part of its store and a margin; where the quick answer's
first class leads by that margin it is given, and only the others are searched for in full. Both were fitted on the
holdout, where the difference is known (``indexer.fitting.approximation``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.doubt import doubtful_above, novelty_scores
from secondlook.model.cache import Floats, mix, reweigh, vote
from secondlook.model.manifest import Novelty
from secondlook.model.stores.faiss_store import Neighbors, Store

T = TypeVar("T")


@dataclass
class Spent:
    """Seconds spent by stage while images are answered."""

    encode: float = 0.0
    search: float = 0.0
    vote: float = 0.0
    seen: float = 0.0
    """When it was last known to go on, by ``time.monotonic()``: others see by it whether it hangs."""
    between: Callable[[], None] | None = None
    """Called now and then by a stage that takes long, so that something else can be done."""
    lent: float = 0.0
    """Seconds that this took, which are no stage's."""

    @contextmanager
    def on(self, stage: Literal["encode", "search", "vote"]) -> Iterator[None]:
        """Add what the block takes to a stage."""
        started, lent = time.perf_counter(), self.lent
        self.seen = time.monotonic()
        yield
        setattr(self, stage, getattr(self, stage) + time.perf_counter() - started - (self.lent - lent))

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items of a stage that takes long; between them, something else can be done."""
        for item in items:
            began = time.monotonic()
            if self.between is not None:
                self.between()
            self.seen = time.monotonic()
            self.lent += self.seen - began
            yield item

    def since(self, before: Spent) -> Spent:
        """What was spent after."""
        return Spent(self.encode - before.encode, self.search - before.search, self.vote - before.vote)

    def add(self, other: Spent) -> None:
        """Add what was spent elsewhere."""
        self.encode += other.encode
        self.search += other.search
        self.vote += other.vote


def vote_until_sure(
    store: Store,
    keys: Floats,
    network: Floats,
    theta: float,
    lam: float,
    k: int,
    novelty: Novelty | None = None,
    among: NDArray[np.bool_] | None = None,
    spent: Spent | None = None,
    own: NDArray[np.float64] | None = None,
    class_weights: NDArray[np.float64] | None = None,
) -> tuple[Neighbors, Floats]:
    """Search and vote for keys (B,D): some of the nearest entries, and p_cache (B,C).

    The parameters must be those that the store's quick search was fitted for; network is p_net (B,C). With ``novelty``,
    an image that a quick search calls novel, or doubtful, is looked for in full: more entries can only make it less so;
    ``own`` (B,) is what else speaks for their being known (``own_evidence``). The neighbours are as many as a quick
    search asks for, or k where there is none. ``class_weights`` (C,) is how much an entry of each class counts; None =
    all the same.
    """
    spent = spent or Spent()
    classes = network.shape[1]

    def ask(found: Neighbors) -> Floats:
        return reweigh(vote(found.similarities, found.values, theta, classes), class_weights)

    quick = store.search_info.quick
    if quick is None or store.quick is None or classes < 2 or (novelty is not None and novelty.neighbor > quick.k):
        with spent.on("search"):
            found = store.search(keys, k, among)
        with spent.on("vote"):
            return found, ask(found)
    with spent.on("search"):
        found = store.quick.search(keys, min(quick.k, k), among)
    with spent.on("vote"):
        cache = ask(found)
        unsure = lead(mix(network, cache, lam)) < quick.margin
    if novelty is not None:
        at = min(novelty.neighbor, found.similarities.shape[1]) - 1
        limit = min(novelty.threshold, doubtful_above(novelty.evidence))
        unsure |= novelty_scores(novelty, found.similarities[:, at], own) > limit
    if unsure.any():
        with spent.on("search"):
            full = store.search(keys[unsure], k, among)
        with spent.on("vote"):
            cache[unsure] = ask(full)
        found.similarities[unsure] = full.similarities[:, : quick.k]
        found.ids[unsure], found.values[unsure] = full.ids[:, : quick.k], full.values[:, : quick.k]
    return found, cache


def lead(probabilities: Floats) -> Floats:
    """By how much each row's largest of (B,C), C >= 2, exceeds its second: (B,)."""
    two = np.partition(probabilities, -2, axis=1)[:, -2:]
    ahead: Floats = two[:, 1] - two[:, 0]
    return ahead

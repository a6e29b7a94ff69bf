"""What to label next: the images of a pool whose labels would teach a cache most, in order, each with its reason.

As long as little is known, about eight images of each class, doubt says little: then the images that are most typical
of those like which none is known come first, a cluster each, the largest first. From then on it is those between
whose two most probable classes the least lies, spread over clusters, so that not all of them ask the same; and, before
them, those that are typical of several that are unlike all that is known. An image that is nearly one that is known,
or that was suggested before it, is not suggested.

The order is made in batches of ten, each as if those before it were known. So ten more are the same whether they are
asked for at once or after the first ten, but that labels which came meanwhile are heard.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secondlook.curation.audit import SIMILAR
from secondlook.curation.clusters import clusters_of, space_of, typicality
from secondlook.curation.opinions import Opinions, opinions_of
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.predictor import Predictor
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import ParameterError

COUNT = 10
BATCH = 10
PER_CLASS = 8
"""Known images of each class, on average, from which on doubt says more than what is typical."""
LEAST_CLUSTER, MOST_CLUSTERS = 3, 500
"""Images in a cluster on average, at least, and clusters at most."""
MOST_KNOWN = 5000
"""Entries that clusters are made with."""
DRAWN_FROM = 10
"""Times as many of the least sure images as are wanted are spread over."""
UNLIKE = 3
"""Images that are unlike all that is known, and like each other, from which on they may be a class of their own."""
UNLIKE_SHARE = 5
"""Of so many that are suggested, one is of those."""
SURE = 0.5
"""What lies between the two most probable classes of an image that is told apart well."""

Reason = Literal["typical", "disagree", "close", "sure"]


@dataclass(frozen=True)
class Suggestion:
    """An image to label, and why."""

    place: int
    """In the pool."""
    reason: Reason
    why: str
    """The same in words."""
    like: int
    """How many images of the pool it is typical of, itself among them; 1 where that is not the reason."""
    labels: tuple[str, ...]
    """What it may show, the most probable first: two at most; none where nothing is known."""
    margin: float | None
    """By how much the first of them is more probable than the second; null where there are not two."""
    similarity: float | None
    """To the nearest known image."""


@dataclass(frozen=True)
class Suggestions:
    """An order in which to label images."""

    suggested: tuple[Suggestion, ...]
    images: int
    """In the pool."""
    known: int
    """Of them, those that are nearly a known image."""
    alike: int
    """And those that are nearly one that is suggested."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def suggest(
    predictor: Predictor,
    keys: Floats,
    logits: Floats,
    *,
    count: int = COUNT,
    similar: float = SIMILAR,
    progress: Progress = silent,
) -> Suggestions:
    """Choose up to ``count`` images of a pool with unit keys (n,D) and logits (n,C), C = 0 where there is no head.

    Memory grows by a few numbers an image, beside the keys. ``similar`` is the cosine of two keys from which on images
    are nearly the same.

    Raises:
        ParameterError: ``count`` is below 1, or ``similar`` is not above 0 and at most 1.
        StoreUnreachableError: the store does not answer.
    """
    if count < 1:
        raise ParameterError(f"count must be at least 1, not {count}")
    if not 0 < similar <= 1:
        raise ParameterError(f"images are nearly the same from a cosine above 0 and at most 1 on, not {similar}")
    order = _Order(predictor, keys, opinions_of(predictor, keys, logits), similar)
    while len(order.found) < count and order.is_open.any():
        progress("choose", len(order.found), count)
        order.choose(min(BATCH, count - len(order.found)))
    progress("choose", count, count)
    return Suggestions(tuple(order.found), len(keys), order.known, order.alike)


class _Order:
    """The images that are suggested so far, and those that may still be."""

    def __init__(self, predictor: Predictor, keys: Floats, opinions: Opinions, similar: float) -> None:
        self._keys, self._opinions, self._similar = keys, opinions, similar
        self._classes, self._entries = predictor.classes, predictor.store.count
        counts = predictor.overlay.counts
        self._enough = PER_CLASS * max(2, int((counts > 0).sum()))
        self.is_open: NDArray[np.bool_] = opinions.similarity < similar
        self.known, self.alike = int((~self.is_open).sum()), 0
        self.found: list[Suggestion] = []
        is_early = self._entries < self._enough or not opinions.tell_apart
        known = _known_keys(predictor) if is_early else keys[:0]
        self._space = space_of(np.concatenate((keys, known)))
        self._is_labelled = np.arange(len(self._space)) >= len(keys)

    def choose(self, wanted: int) -> None:
        """Suggest so many more, or fewer where that is all."""
        until = len(self.found) + wanted
        if self._entries + len(self.found) < self._enough or not self._opinions.tell_apart:
            self._typical(until)
        else:
            self._unlike(until)
            self._doubtful(until)

    def _typical(self, until: int) -> None:
        """Those that are typical of clusters in which the fewest are known, and of these of the largest."""
        wanted, pool = until - len(self.found), len(self._keys)
        most = min(MOST_CLUSTERS, max(wanted, len(self._space) // LEAST_CLUSTER))
        clusters = clusters_of(self._space, min(int(self._is_labelled.sum()) + wanted, most))
        known = np.bincount(clusters, self._is_labelled).astype(np.int64)
        sizes = np.bincount(clusters[:pool], ~self._is_labelled[:pool], minlength=len(known)).astype(np.int64)
        typical: dict[int, Ints] = {}
        while len(self.found) < until and self.is_open.any():
            has_open = np.bincount(clusters[:pool], self.is_open, minlength=len(known)) > 0
            cluster = min(np.flatnonzero(has_open).tolist(), key=lambda c: (known[c], -sizes[c], c))
            if cluster not in typical:
                typical[cluster] = _by_typicality(self._space, np.flatnonzero(clusters == cluster))
            of = typical[cluster]
            place = next(row for row in of.tolist() if row < pool and self.is_open[row])
            self._take(
                place, "typical", self._why_typical(int(sizes[cluster]), int(known[cluster])), int(sizes[cluster])
            )
            known[cluster] += 1

    def _unlike(self, until: int) -> None:
        """Those that are typical of several that are unlike all that is known: a fifth of what is wanted at most."""
        until = len(self.found) + -(-(until - len(self.found)) // UNLIKE_SHARE)
        rows = np.flatnonzero(self.is_open & self._opinions.is_novel)
        if len(rows) < UNLIKE:
            return
        clusters = clusters_of(self._space[rows], max(1, min(BATCH, len(rows) // UNLIKE)))
        sizes = np.bincount(clusters)
        for cluster in np.argsort(-sizes, kind="stable").tolist():
            if len(self.found) >= until or sizes[cluster] < UNLIKE:
                return
            for place in _by_typicality(self._space, rows[clusters == cluster]).tolist():
                if self.is_open[place]:
                    why = f"typical of {sizes[cluster]:,} photos unlike all that is known"
                    self._take(place, "typical", why, int(sizes[cluster]))
                    break

    def _doubtful(self, until: int) -> None:
        """Those that are told apart the least, from each of as many clusters as are wanted."""
        wanted, margins = until - len(self.found), self._opinions.margins
        while wanted > 0 and self.is_open.any():
            rows = np.flatnonzero(self.is_open)
            rows = rows[np.argsort(margins[rows], kind="stable")]
            doubtful = int((margins[rows] < SURE).sum())
            # Spreading is no reason to ask of what is told apart well.
            rows = rows[: max(wanted, min(doubtful, DRAWN_FROM * wanted))]
            clusters = clusters_of(self._space[rows], wanted)
            # Rows are in the order of their margins: the first of each cluster is its least sure one.
            for place in rows[np.sort(np.unique(clusters, return_index=True)[1])].tolist():
                if self.is_open[place]:
                    self._take(place, *self._why_doubtful(place), 1)
            wanted = until - len(self.found)

    def _take(self, place: int, reason: Reason, why: str, like: int) -> None:
        opinions = self._opinions
        two = [int(of[place]) for of in (opinions.first, opinions.second) if of[place] >= 0]
        is_alike = self.is_open & (self._keys @ self._keys[place] >= self._similar)
        is_alike[place] = False
        self.alike += int(is_alike.sum())
        self.is_open &= ~is_alike
        self.is_open[place] = False
        self._is_labelled[place] = True
        similarity = float(opinions.similarity[place])
        self.found.append(
            Suggestion(
                place,
                reason,
                why,
                like,
                tuple(self._classes[label] for label in two),
                round(float(opinions.margins[place]), 6) if len(two) > 1 else None,
                round(similarity, 6) if np.isfinite(similarity) else None,
            )
        )

    def _why_typical(self, size: int, known: int) -> str:
        if size == 1:
            return "like no other of these photos" + (", and like none that is known" if self._entries else "")
        if known:
            return f"typical of {size:,} photos like which few are known"
        return f"typical of {size:,} photos" + (" like none that is known" if self._entries or self.found else "")

    def _why_doubtful(self, place: int) -> tuple[Reason, str]:
        opinions = self._opinions
        network, cache = int(opinions.network[place]), int(opinions.cache[place])
        if network >= 0 and cache >= 0 and network != cache:
            names = f"{self._classes[network]} or {self._classes[cache]}"
            return "disagree", f"network and cache disagree: {names}"
        first, second = (self._classes[int(of[place])] for of in (opinions.first, opinions.second))
        likely, less = (f"{100 * share:.0f} %" for share in opinions.probabilities[place].tolist())
        if opinions.margins[place] < SURE:
            return "close", f"hard to tell: {first} {likely}, {second} {less}"
        return "sure", f"{first} {likely}: told apart well, so it teaches little"


def _by_typicality(space: Floats, rows: Ints) -> Ints:
    """Rows (m,) of the space, the most typical of them first."""
    return rows[np.argsort(-typicality(space[rows]), kind="stable")]


def _known_keys(predictor: Predictor) -> Floats:
    """(n,D) of all entries, or of MOST_KNOWN of them, evenly: of one class there may be many."""
    every = max(1, -(-predictor.store.count // MOST_KNOWN))
    chunks = [keys[::every] for keys, _ in predictor.store.chunks()]
    return np.concatenate(chunks) if chunks else np.empty((0, predictor.store.dim), np.float32)

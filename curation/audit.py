"""What a cache knows about its own labelled images: wrong labels, near-duplicates, entries that nobody needs.

Each entry's key is asked of the store that it lies in, leave-one-out: the entry itself, its mirrored copy and all else
of the same source take no part, or an image would vouch for its own label. Labels are doubted by the vote that is
served, under the bundle's own theta and k: with g an image's label and p its neighbours' vote,

    score = ln((p(y) + FLOOR) / (p(g) + FLOOR)),    y the other label with the most votes

both votes being means over the image's copies. Above 0, its neighbours would have given it the other label.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints, check_parameters, reweigh, vote
from secondlook.model.errors import ParameterError
from secondlook.model.stores.factory import MAX_APPROXIMATE_K, is_exhaustive
from secondlook.model.stores.store import Neighbors

FLOOR = 1e-3
"""Added to both votes: below it, how small one is says nothing, and a score stays finite."""

SIMILAR = 0.95
"""Cosine of two keys from which on their images are near-duplicates to the network."""

LISTED = 50
NEIGHBORS = 200
"""Where all entries vote, so many are asked."""

PAIRS_EACH = 10
"""An entry counts at most so many of its neighbours as near-duplicates, so that pairs cannot outgrow memory."""

QUERIES_AT_ONCE = 1000
NEIGHBORS_AT_ONCE = 2_000_000
"""Fewer queries at once where they ask for many neighbours."""


class Images(NamedTuple):
    """Which entries show the same image: its copies share source and label."""

    of: Ints
    """(N,) image of each entry."""
    source: Ints
    """(N,) number of each entry's source."""
    first: Ints
    """(M,) id of each image's first entry, which is not a mirrored one."""
    labels: Ints
    """(M,)."""
    sources: tuple[str, ...]
    """(M,)."""


@dataclass(frozen=True)
class Suspect:
    """An image whose neighbours would have given it another label."""

    id: int
    source: str
    given: str
    suggested: str
    score: float
    given_vote: float
    suggested_vote: float

    def cells(self) -> tuple[str, ...]:
        """As they are read."""
        figures = f"{self.score:.2f}", f"{self.given_vote:.3f}", f"{self.suggested_vote:.3f}"
        return (str(self.id), self.source, self.given, self.suggested, *figures)


@dataclass(frozen=True)
class Pair:
    """Two different images that the network hardly tells apart."""

    similarity: float
    ids: tuple[int, int]
    sources: tuple[str, str]
    labels: tuple[str, str]

    def cells(self) -> tuple[str, ...]:
        """As they are read."""
        return (*(" | ".join(map(str, two)) for two in (self.labels, self.ids, self.sources)), f"{self.similarity:.3f}")


@dataclass(frozen=True)
class Unused:
    """An entry that is among the k nearest of no other image."""

    id: int
    source: str
    label: str


@dataclass(frozen=True)
class Audit:
    """What ``audit`` found; lists are the first ``listed`` of what the counts count, but for the suspects."""

    generation: str
    dataset: str
    images: int
    entries: int
    theta: float
    k: int
    similar: float
    listed: int
    suspects: tuple[Suspect, ...]
    """All of them, the most suspicious first."""
    across: tuple[Pair, ...]
    across_count: int
    within: tuple[Pair, ...]
    within_count: int
    unused: tuple[Unused, ...]
    unused_count: int
    unused_by_class: dict[str, tuple[int, int]]
    """Entries of each class that are never used, and all of them."""
    uses: tuple[int, int, int]
    """Of how many entries of other images an entry is among the k nearest: at least, median, at most."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{name: getattr(self, name) for name in ("generation", "dataset", "images", "entries", "theta", "k")},
            "suspects": {
                "count": len(self.suspects),
                "listed": [asdict(one) for one in self.suspects[: self.listed]],
            },
            "near_duplicates": {
                "similarity": self.similar,
                "across_classes": {"count": self.across_count, "listed": [asdict(pair) for pair in self.across]},
                "within_a_class": {"count": self.within_count, "listed": [asdict(pair) for pair in self.within]},
            },
            "unused": {
                "count": self.unused_count,
                "uses": dict(zip(("least", "median", "most"), self.uses, strict=True)),
                "by_class": {name: {"unused": few, "of": all_} for name, (few, all_) in self.unused_by_class.items()},
                "listed": [asdict(one) for one in self.unused],
            },
        }

    def tables(self) -> list[Table]:
        """Suspects, near-duplicates across classes and within one, and unused entries by class."""
        return [
            Table(
                f"labels that neighbours doubt: {len(self.suspects):,} of {self.images:,} images, {self.dataset}, "
                f"generation {self.generation}",
                ("id", "source", "given", "suggested", "score", "vote for given", "for suggested"),
                tuple(suspect.cells() for suspect in self.suspects[: self.listed]),
                f"{self._first(len(self.suspects))}; theta {self.theta:g}, k {self.k}; no image votes on itself",
                names=4,
            ),
            self._pairs("of different classes", self.across_count, self.across),
            self._pairs("of one class", self.within_count, self.within),
            Table(
                f"entries among the {self.k} nearest of no other image: {self.unused_count:,} of {self.entries:,}",
                ("class", "unused", "of", "%"),
                tuple(
                    (name, f"{few:,}", f"{all_:,}", f"{100 * few / max(all_, 1):.2f}")
                    for name, (few, all_) in self.unused_by_class.items()
                ),
                "an entry is among the nearest of {:,} entries at least, {:,} (median), {:,} at most".format(
                    *self.uses
                ),
            ),
            *self._unused(),
        ]

    def figures(self) -> list[Figure]:
        """None: its pictures are contact sheets."""
        return []

    def write_csv(self, path: Path) -> None:
        """All suspects, a row each."""
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "source", "given", "suggested", "score", "given_vote", "suggested_vote"))
            rows.writerows(asdict(suspect).values() for suspect in self.suspects)

    def _unused(self) -> list[Table]:
        if not self.unused:
            return []
        rows = tuple((str(one.id), one.source, one.label) for one in self.unused)
        return [Table("those entries", ("id", "source", "label"), rows, self._first(self.unused_count), names=3)]

    def _pairs(self, which: str, count: int, pairs: tuple[Pair, ...]) -> Table:
        return Table(
            f"near-duplicates {which}: {count:,} pairs of images",
            ("labels", "ids", "sources", "similarity"),
            tuple(pair.cells() for pair in pairs),
            f"{self._first(count)}; similar from {self.similar:g} on",
            names=3,
        )

    def _first(self, count: int) -> str:
        return f"the first {self.listed}" if count > self.listed else "all of them"


def audit(
    bundle: Bundle,
    *,
    theta: float | None = None,
    k: int | None = None,
    similar: float = SIMILAR,
    listed: int = LISTED,
    progress: Progress = silent,
) -> Audit:
    """Ask each entry's key of its neighbours; memory grows by a few numbers an entry.

    Raises:
        ParameterError: a parameter is out of its range.
    """
    if not 0 < similar <= 1:
        raise ParameterError(f"near-duplicates are similar by above 0 and at most 1, not {similar}")
    manifest, values = bundle.manifest, bundle.store.values
    theta, k = asked(bundle, theta, k)
    names, by_class = manifest.classes, Overlay(bundle).class_weights
    images = images_of(bundle)
    doubt = Doubts(images, len(names))
    uses = np.zeros(bundle.store.count, np.int64)
    across, within = _Pairs(len(images.first)), _Pairs(len(images.first))
    lengths = np.concatenate([np.linalg.norm(keys, axis=1) for keys, _ in bundle.store.chunks()])
    for rows, found in neighborhoods(bundle, images, k, progress):
        doubt.add(rows, values[rows], found.similarities, found.values, theta, by_class)
        there = found.ids >= 0
        uses += np.bincount(found.ids[there], minlength=len(uses))
        # The queries have length 1, the entries have that of their quantised keys.
        near = there & (found.similarities / lengths[found.ids] >= similar)
        same = found.values == values[rows][:, None]
        for pairs, of in ((across, near & ~same), (within, near & same)):
            place, nth = np.nonzero(of & (of.cumsum(axis=1) <= PAIRS_EACH))
            ids = found.ids[place, nth]
            pairs.add(images.of[rows][place], images.of[ids], found.similarities[place, nth] / lengths[ids])
    scores, suggested, own, other = doubt.of_images()
    ranked = np.argsort(-scores, kind="stable")[: int((scores > 0).sum())]
    unused = np.flatnonzero(uses == 0)
    few, all_ = (np.bincount(labels, minlength=len(names)) for labels in (values[unused], values))
    sources = images.sources
    return Audit(
        generation=manifest.generation,
        dataset=f"{manifest.dataset.name} {manifest.dataset.split}",
        images=len(images.first),
        entries=bundle.store.count,
        theta=theta,
        k=k,
        similar=similar,
        listed=listed,
        suspects=tuple(
            Suspect(
                int(images.first[i]),
                sources[i],
                names[images.labels[i]],
                names[suggested[i]],
                *(round(float(figures[i]), 6) for figures in (scores, own, other)),
            )
            for i in ranked
        ),
        across=across.listed(listed, images, names),
        across_count=across.count,
        within=within.listed(listed, images, names),
        within_count=within.count,
        unused=tuple(Unused(int(i), sources[images.of[i]], names[values[i]]) for i in unused[:listed]),
        unused_count=len(unused),
        unused_by_class={name: (int(few[i]), int(all_[i])) for i, name in enumerate(names)},
        uses=(int(uses.min()), int(np.median(uses)), int(uses.max())),
    )


def asked(bundle: Bundle, theta: float | None, k: int | None) -> tuple[float, int]:
    """Theta and k, the bundle's own where none are given.

    Raises:
        ParameterError: a parameter is out of its range.
    """
    theta = bundle.manifest.theta if theta is None else theta
    k = bundle.manifest.k or NEIGHBORS if k is None else k
    check_parameters(theta, 1.0, k)
    if not is_exhaustive(bundle.manifest.store.factory) and k > MAX_APPROXIMATE_K:
        raise ParameterError(
            f"k must be at most {MAX_APPROXIMATE_K:,} with a store that is searched in part, not {k:,}"
        )
    return theta, min(k, bundle.store.count)


def images_of(bundle: Bundle) -> Images:
    """Which entries of a bundle show the same image."""
    names = bundle.entries.sources()
    numbers: dict[str, int] = {}
    source: Ints = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    values, classes = bundle.store.values, len(bundle.manifest.classes)
    _, first, of = np.unique(source * classes + values, return_index=True, return_inverse=True)
    return Images(of, source, first, values[first], tuple(names[i] for i in first))


def neighborhoods(
    bundle: Bundle, images: Images, k: int, progress: Progress = silent
) -> Iterator[tuple[slice, Neighbors]]:
    """Some entries at a time, in id order, and the k nearest of another source to each, as a full search finds them.

    Where there are fewer, the last places have id and value -1.
    """
    store = bundle.store
    copies = int(np.bincount(images.source).max())
    at_once = max(1, min(QUERIES_AT_ONCE, NEIGHBORS_AT_ONCE // (k + copies)))
    done = 0
    for keys, _ in store.chunks():
        for start in range(0, len(keys), at_once):
            some = keys[start : start + at_once]
            rows = slice(done, done + len(some))
            # Quantised keys are not quite of length 1, as a query is.
            some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
            found = store.search(some, k + copies)
            out = (found.ids < 0) | (images.source[found.ids] == images.source[rows][:, None])
            places = np.argsort(out, axis=1, kind="stable")[:, :k]
            similarities, ids, values, out = (np.take_along_axis(a, places, axis=1) for a in (*found, out))
            similarities[out], ids[out], values[out] = -np.inf, -1, -1
            yield rows, Neighbors(similarities, ids, values)
            done = rows.stop
            progress("audit", done, store.count)


class Doubts:
    """Each entry's label suggested and the votes for it and for its own, gathered by image."""

    def __init__(self, images: Images, classes: int) -> None:
        self._images, self._classes = images, classes
        count = len(images.of)
        self._own, self._other = np.zeros(count, np.float32), np.zeros(count, np.float32)
        self._suggested = np.zeros(count, np.int64)

    def add(
        self,
        rows: slice,
        given: Ints,
        similarities: Floats,
        values: Ints,
        theta: float,
        by_class: NDArray[np.float64] | None,
    ) -> None:
        """Entries with the labels given (B,), and their neighbours' similarities and values (B,k)."""
        votes = reweigh(vote(similarities, values, theta, self._classes), by_class)
        everyone = np.arange(len(votes))
        self._own[rows] = votes[everyone, given]
        votes[everyone, given] = -1.0
        self._suggested[rows] = votes.argmax(axis=1)
        self._other[rows] = np.maximum(votes.max(axis=1), 0.0)  # a single class has no other

    def of_images(self) -> tuple[NDArray[np.float64], Ints, NDArray[np.float64], NDArray[np.float64]]:
        """Each image's score, the other label that any of its entries has most votes for, and both votes (M,)."""
        of, count = self._images.of, len(self._images.first)
        entries = np.bincount(of, minlength=count)
        own, other = (np.bincount(of, votes, minlength=count) / entries for votes in (self._own, self._other))
        suggested = np.empty(count, np.int64)
        rising = np.argsort(self._other, kind="stable")
        suggested[of[rising]] = self._suggested[rising]  # the last one written stays
        return np.log((other + FLOOR) / (own + FLOOR)), suggested, own, other


class _Pairs:
    """Pairs of images, each once, with the highest similarity of any of their entries."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._found: list[tuple[Ints, Floats]] = [(np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, one: Ints, other: Ints, similarities: Floats) -> None:
        self._found.append((np.minimum(one, other) * self._images + np.maximum(one, other), similarities))
        if len(self._found) > 256:
            self._settle()

    def _settle(self) -> tuple[Ints, Floats]:
        pairs, similarities = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.lexsort((-similarities, pairs))
        distinct, first = np.unique(pairs[order], return_index=True)
        self._found = [(distinct, similarities[order][first])]
        return self._found[0]

    @property
    def count(self) -> int:
        return len(self._settle()[0])

    def listed(self, most: int, images: Images, names: tuple[str, ...]) -> tuple[Pair, ...]:
        pairs, similarities = self._settle()
        listed = []
        for i in np.lexsort((pairs, -similarities))[:most]:
            one, other = divmod(int(pairs[i]), self._images)
            listed.append(
                Pair(
                    round(float(similarities[i]), 6),
                    (int(images.first[one]), int(images.first[other])),
                    (images.sources[one], images.sources[other]),
                    (names[images.labels[one]], names[images.labels[other]]),
                )
            )
        return tuple(listed)

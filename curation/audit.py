"""What a cache knows about its own labelled images: wrong labels, near-duplicates, entries that nobody needs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.curation.neighbors import (
    Images,
    LabelVotes,
    images_of,
    nearest_others,
    neighborhoods,
    queries_at_once,
    theta_and_k,
)
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats, Ints, weights
from secondlook.model.errors import NothingTaughtError, ParameterError

SIMILAR = 0.95
"""Cosine of two keys from which on their images are near-duplicates to the network."""

LISTED = 50

NEIGHBORS_SHOWN = 8
"""Nearest images that are told of a suspect."""

DECISION, LABEL = "decision", "label"
"""Columns that are written empty, for a person to fill in (``curation.fixes``)."""

PAIRS_EACH = 10
"""An entry counts at most so many of its neighbours as near-duplicates, so that pairs cannot outgrow memory."""


@dataclass(frozen=True)
class Neighbor:
    """An entry of another image near to a suspect."""

    id: int
    label: str
    similarity: float
    weight: float
    """Its share of the vote."""


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
    neighbors: tuple[Neighbor, ...] = ()
    """The nearest first; of those that are listed alone."""

    def as_dict(self) -> dict[str, Any]:
        """With an empty decision, for a person to fill in."""
        return {**self.as_row(), "neighbors": [asdict(one) for one in self.neighbors]}

    def as_row(self) -> dict[str, Any]:
        """The same without its neighbours."""
        own = {name: value for name, value in vars(self).items() if name != "neighbors"}
        return {**own, DECISION: "", LABEL: ""}

    def cells(self) -> tuple[str, ...]:
        """As they are read."""
        figures = f"{self.score:.2f}", f"{self.given_vote:.3f}", f"{self.suggested_vote:.3f}"
        return (str(self.id), self.source, self.given, self.suggested, *figures)


COLUMNS = ("id", "source", "given", "suggested", "score", "given_vote", "suggested_vote", DECISION, LABEL)
"""Of the table of suspects."""


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
    change: int
    """The newest change of the journal that was looked at; 0 = none."""
    dataset: str
    images: int
    entries: int
    theta: float
    k: int
    similar: float
    listed: int
    suspects: tuple[Suspect, ...]
    """All of them but those that are confirmed, the most suspicious first."""
    confirmed: int
    """Others that neighbours doubt, and of which somebody said that their labels are right."""
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
            **{
                name: getattr(self, name)
                for name in ("generation", "change", "dataset", "images", "entries", "theta", "k")
            },
            "suspects": {
                "count": len(self.suspects),
                "confirmed": self.confirmed,
                "listed": [one.as_dict() for one in self.suspects[: self.listed]],
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
                f"{self._first(len(self.suspects))}; theta {self.theta:g}, k {self.k}; no image votes on itself"
                + (f"; {self.confirmed:,} more were looked at and found right" if self.confirmed else ""),
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
        """Write all suspects, a row each."""
        with path.open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS)
            rows.writeheader()
            rows.writerows(suspect.as_row() for suspect in self.suspects)

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
    cache: Overlay,
    *,
    confirmed: Mapping[str, str] | None = None,
    theta: float | None = None,
    k: int | None = None,
    similar: float = SIMILAR,
    listed: int = LISTED,
    progress: Progress = silent,
) -> Audit:
    """Ask each entry's key of its neighbours; memory grows by a few numbers an entry.

    ``confirmed`` are labels that somebody found right, by source: no image that has its own is a suspect.

    Raises:
        ParameterError: a parameter is out of its range.
        NothingTaughtError: there is no entry.
    """
    if not 0 < similar <= 1:
        raise ParameterError(f"near-duplicates are similar by above 0 and at most 1, not {similar}")
    if not cache.store.count:
        raise NothingTaughtError
    manifest, names, values, ids = cache.bundle.manifest, cache.classes, cache.store.values, cache.ids
    theta, k = theta_and_k(cache, theta, k)
    images = images_of(cache)
    votes = LabelVotes(images, len(names))
    uses = np.zeros(cache.store.count, np.int64)
    across, within = _Pairs(len(images.first)), _Pairs(len(images.first))
    lengths = np.concatenate([np.linalg.norm(keys, axis=1) for keys, _ in cache.store.chunks()])
    for rows, found in neighborhoods(cache, images, k, progress):
        votes.add(rows, values[rows], found.similarities, found.values, theta, cache.class_weights)
        there = found.ids >= 0
        uses += np.bincount(found.ids[there], minlength=len(uses))
        # The queries have length 1, the entries have that of their quantised keys.
        near = there & (found.similarities / lengths[found.ids] >= similar)
        same = found.values == values[rows][:, None]
        for pairs, of in ((across, near & ~same), (within, near & same)):
            place, nth = np.nonzero(of & (of.cumsum(axis=1) <= PAIRS_EACH))
            others = found.ids[place, nth]
            pairs.add(images.of[rows][place], images.of[others], found.similarities[place, nth] / lengths[others])
    scores, suggested, own, other = votes.of_images()
    ranked = np.argsort(-scores, kind="stable")[: int((scores > 0).sum())]
    sources, is_right = images.sources, confirmed or {}
    open_ = [i for i in ranked.tolist() if is_right.get(sources[i]) != names[images.labels[i]]]
    neighbors = dict(_neighbors(cache, images, open_[:listed], theta, k))
    unused = np.flatnonzero(uses == 0)
    few, all_ = (np.bincount(labels, minlength=len(names)) for labels in (values[unused], values))
    return Audit(
        generation=manifest.generation,
        change=cache.change,
        dataset=f"{manifest.dataset.name} {manifest.dataset.split}",
        images=len(images.first),
        entries=cache.store.count,
        theta=theta,
        k=k,
        similar=similar,
        listed=listed,
        suspects=tuple(
            Suspect(
                int(ids[images.first[i]]),
                sources[i],
                names[images.labels[i]],
                names[suggested[i]],
                round(float(scores[i]), 6),
                round(float(own[i]), 6),
                round(float(other[i]), 6),
                neighbors.get(i, ()),
            )
            for i in open_
        ),
        confirmed=len(ranked) - len(open_),
        across=across.listed(listed, images, names, ids),
        across_count=across.count,
        within=within.listed(listed, images, names, ids),
        within_count=within.count,
        unused=tuple(Unused(int(ids[i]), sources[images.of[i]], names[values[i]]) for i in unused[:listed]),
        unused_count=len(unused),
        unused_by_class={name: (int(few[i]), int(all_[i])) for i, name in enumerate(names)},
        uses=(int(uses.min()), int(np.median(uses)), int(uses.max())),
    )


def _neighbors(
    cache: Overlay, images: Images, some: list[int], theta: float, k: int
) -> Iterator[tuple[int, tuple[Neighbor, ...]]]:
    """The nearest entries of some images' first ones, with their shares of the vote; searches once more."""
    rows = np.sort(images.first[np.array(some, np.int64)])
    done, at_once = 0, queries_at_once(images, k)
    for chunk, _ in cache.store.chunks():
        here = rows[(rows >= done) & (rows < done + len(chunk))]
        for start in range(0, len(here), at_once):
            part = here[start : start + at_once]
            found = nearest_others(cache, images, chunk[part - done], images.source[part], k)
            shares = weights(found.similarities, found.values, theta)
            if cache.class_weights is not None:
                shares *= cache.class_weights[np.maximum(found.values, 0)]
                shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
            for place, row in enumerate(part.tolist()):
                own = (each[place, :NEIGHBORS_SHOWN].tolist() for each in (*found, shares))
                yield (
                    int(images.of[row]),
                    tuple(
                        Neighbor(int(cache.ids[at]), cache.classes[value], round(alike, 6), round(share, 6))
                        for alike, at, value, share in zip(*own, strict=True)
                        if at >= 0
                    ),
                )
        done += len(chunk)


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

    def listed(self, most: int, images: Images, names: tuple[str, ...], ids: Ints) -> tuple[Pair, ...]:
        pairs, similarities = self._settle()
        listed = []
        for i in np.lexsort((pairs, -similarities))[:most]:
            one, other = divmod(int(pairs[i]), self._images)
            listed.append(
                Pair(
                    round(float(similarities[i]), 6),
                    (int(ids[images.first[one]]), int(ids[images.first[other]])),
                    (images.sources[one], images.sources[other]),
                    (names[images.labels[one]], names[images.labels[other]]),
                )
            )
        return tuple(listed)

"""What a cache knows about its own labelled images: wrong labels, near-duplicates, entries that nobody needs."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.curation.neighbors import Images, LabelVotes, images_of, neighborhoods, theta_and_k
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import ParameterError

SIMILAR = 0.95
"""Cosine of two keys from which on their images are near-duplicates to the network."""

LISTED = 50

PAIRS_EACH = 10
"""An entry counts at most so many of its neighbours as near-duplicates, so that pairs cannot outgrow memory."""


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
        """Write all suspects, a row each."""
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
    theta, k = theta_and_k(bundle, theta, k)
    names, by_class = manifest.classes, Overlay(bundle).class_weights
    images = images_of(bundle)
    votes = LabelVotes(images, len(names))
    uses = np.zeros(bundle.store.count, np.int64)
    across, within = _Pairs(len(images.first)), _Pairs(len(images.first))
    lengths = np.concatenate([np.linalg.norm(keys, axis=1) for keys, _ in bundle.store.chunks()])
    for rows, found in neighborhoods(bundle, images, k, progress):
        votes.add(rows, values[rows], found.similarities, found.values, theta, by_class)
        there = found.ids >= 0
        uses += np.bincount(found.ids[there], minlength=len(uses))
        # The queries have length 1, the entries have that of their quantised keys.
        near = there & (found.similarities / lengths[found.ids] >= similar)
        same = found.values == values[rows][:, None]
        for pairs, of in ((across, near & ~same), (within, near & same)):
            place, nth = np.nonzero(of & (of.cumsum(axis=1) <= PAIRS_EACH))
            ids = found.ids[place, nth]
            pairs.add(images.of[rows][place], images.of[ids], found.similarities[place, nth] / lengths[ids])
    scores, suggested, own, other = votes.of_images()
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

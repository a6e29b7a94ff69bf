"""How many images of a new class must be taught before it is recognised, and what that does to the known classes.

Classes of another dataset are drawn and taught, a few images of each, beside the bundle's own entries, as a server is
taught; other images of them, and the bundle's test images, are then answered as served. Several draws are made: how
well a class is learned differs much between classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secondlook.evaluation.evaluate import sample, unseen
from secondlook.evaluation.served import answers_of
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.embedding import BATCH
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.plots import COLOURS, INK
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import DatasetError
from secondlook.model.intervals import Interval, bootstrap

SHOTS = (1, 5, 20, 100)
CLASSES = 5
"""Taught at once."""
DRAWS = 4


@dataclass(frozen=True)
class NamedQueries:
    """Images to be asked about, with their classes by name."""

    queries: EmbeddedQueries
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Shots:
    """What so many images of each new class come to, over all draws."""

    shots: int
    new: Interval
    """Of the new classes' images, % that are recognised; the interval is over the classes."""
    first: Interval
    """The same by the cache alone."""
    old: Interval
    """Of the known classes' images, % right; the interval is over the images."""
    taken: float
    """Of the known classes' images, % that are taken for a new class."""


@dataclass(frozen=True)
class NewClasses:
    """What ``new_classes`` measured."""

    known: str
    unknown: str
    images: int
    before: Interval
    """Of the known classes' images, % right before anything was taught."""
    classes: tuple[tuple[str, ...], ...]
    """Taught together, in each draw."""
    points: tuple[Shots, ...]
    by_class: dict[str, tuple[float, ...]]
    """For each class, % recognised after so many images as the points say."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """One: by the number of images taught."""
        rows = [("0", "0.0", "", self.before.text(), "")]
        rows += [(str(p.shots), p.new.text(1), p.first.text(1), p.old.text(), f"{p.taken:.2f}") for p in self.points]
        return [
            Table(
                f"new classes of {self.unknown} taught to a cache of {self.known}",
                ("images of each", "new, % right", "cache alone", "known, % right", "known taken for new, %"),
                tuple(rows),
                f"{len(self.classes)} draws of {len(self.classes[0])} classes; {self.images:,} images of known ones; "
                "95 % intervals over the new classes, and over the known classes' images",
            )
        ]

    def figures(self) -> list[Figure]:
        """Recognised by images taught."""
        last = self.points[-1]
        return [
            Figure(
                "new-classes",
                f"{last.shots} images of a new class: {last.new.value:.0f} % recognised, "
                f"{self.before.value - last.old.value:.1f} points lost on the known",
                self._draw,
                "The share of a new class's images that are recognised grows with the images taught; each thin line "
                "is a class, the thick one their mean, and the dashed one the known classes, which stay nearly level.",
            )
        ]

    def _draw(self, into: Any) -> None:
        axes = into.subplots()
        shots = [p.shots for p in self.points]
        for i, line in enumerate(self.by_class.values()):
            axes.plot(shots, line, color=COLOURS[0], alpha=0.25, linewidth=1, label="each new class" if not i else None)
        axes.plot(
            shots, [p.new.value for p in self.points], color=COLOURS[0], marker="o", linewidth=3, label="their mean"
        )
        old = [p.old.value for p in self.points]
        axes.plot(shots, old, color=COLOURS[4], marker="s", linestyle="--", linewidth=2, label="known classes")
        axes.axhline(self.before.value, color=INK, linewidth=1, linestyle=":", label="known, before teaching")
        axes.set(xscale="log", xlabel="images taught of each new class", ylabel="recognised, %", ylim=(0, 100))
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.9))


def new_classes(
    bundle: Bundle,
    known: Dataset,
    new_train: Dataset,
    new_test: Dataset,
    *,
    images: int | None = None,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    classes: int = CLASSES,
    progress: Progress = silent,
) -> NewClasses:
    """Teach drawn classes of one dataset to a cache of another, and ask about test images of both.

    Raises:
        DatasetError: ``known`` is not of the bundle's classes, the others have too few classes or images, or too many
            images are unreadable.
    """
    known = unseen(known, bundle.manifest)
    strangers = [c for c, name in enumerate(new_train.classes) if name not in bundle.manifest.classes]
    counts = np.bincount(new_train.labels, minlength=len(new_train.classes))
    strangers = [c for c in strangers if counts[c] >= max(shots)]
    if new_train.classes != new_test.classes or len(strangers) < classes:
        raise DatasetError(
            f"{new_train.name} needs {classes} classes that the bundle does not know, of {max(shots)} images each, and "
            "the same ones in its test split"
        )
    asked = _queries(bundle, known, sample(known, images), progress)
    truth = np.array(asked.labels)
    before = bootstrap(100.0 * (_answers(Overlay(bundle), asked)[0] == truth))
    random = np.random.default_rng(0)
    done, total = 0, draws * len(shots)
    taught: list[tuple[str, ...]] = []
    right: dict[int, list[tuple[float, float]]] = {count: [] for count in shots}
    old: dict[int, list[Any]] = {count: [] for count in shots}
    taken: dict[int, list[float]] = {count: [] for count in shots}
    by_class: dict[str, list[list[float]]] = {}
    for _ in range(draws):
        chosen = np.sort(random.permutation(strangers)[:classes])
        names = tuple(new_train.classes[c] for c in chosen)
        taught.append(names)
        keys = {name: _keys(bundle, new_train, c, max(shots), random) for name, c in zip(names, chosen, strict=True)}
        others = _queries(bundle, new_test, np.flatnonzero(np.isin(new_test.labels, chosen)), silent)
        theirs = np.array(others.labels)
        lines: dict[str, list[float]] = {name: [] for name in names}
        for count in shots:
            first = dict(enumerate(_first(keys, count), start=1))
            overlay = Overlay(bundle).changed(1, b"", labels=dict(enumerate(names)), images=first, corrections={})
            mixed, cache = _answers(overlay, others)
            for name in names:
                own = theirs == name
                lines[name].append(100 * float((mixed[own] == name).mean()))
                right[count].append((lines[name][-1], 100 * float((cache[own] == name).mean())))
            said = _answers(overlay, asked)[0]
            old[count].append(100.0 * (said == truth))
            taken[count].append(100 * float(np.isin(said, names).mean()))
            done += 1
            progress("teach", done, total)
        for name, line in lines.items():
            by_class.setdefault(name, []).append(line)
    return NewClasses(
        known=f"{known.name} {known.split}",
        unknown=new_train.name,
        images=len(truth),
        before=before,
        classes=tuple(taught),
        points=tuple(
            Shots(
                count,
                bootstrap([pair[0] for pair in right[count]]),
                bootstrap([pair[1] for pair in right[count]]),
                bootstrap(np.mean(old[count], axis=0)),
                float(np.mean(taken[count])),
            )
            for count in shots
        ),
        by_class={name: tuple(np.mean(lines, axis=0).tolist()) for name, lines in by_class.items()},
    )


def _queries(bundle: Bundle, dataset: Dataset, positions: Ints, progress: Progress) -> NamedQueries:
    found = embed_queries(dataset, positions, bundle, progress)
    return NamedQueries(found, tuple(dataset.classes[label] for label in found.labels))


def _keys(bundle: Bundle, dataset: Dataset, label: int, count: int, random: np.random.Generator) -> Floats:
    """Keys (count,copies,D) of some images of a class, in random order, copies as the bundle keeps them."""
    positions = random.permutation(np.flatnonzero(dataset.labels == label))[:count]
    found = []
    for _, images in batches(dataset, positions, bundle.geometry, BATCH):
        copies = [images, images[:, :, ::-1]] if bundle.manifest.dataset.mirrored else [images]
        found.append(np.stack([bundle.engine.encode(np.ascontiguousarray(copy)).keys for copy in copies], axis=1))
    return np.concatenate(found)


def _first(keys: dict[str, Floats], count: int) -> Iterator[tuple[str, dict[bool, Floats]]]:
    for name, of_class in keys.items():
        for copies in of_class[:count]:
            yield name, dict(zip((False, True), copies, strict=False))


def _answers(overlay: Overlay, asked: NamedQueries) -> tuple[Any, Any]:
    """Labels (n,) that the mixture gives, as served, and that the cache alone gives."""
    classes, said = np.array(overlay.classes), answers_of(overlay, asked.queries)
    return classes[said.mixed.argmax(axis=1)], classes[said.cache.argmax(axis=1)]

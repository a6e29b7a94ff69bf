"""How well a class is known that was left out of the index, and of which a few photos were taught.

Each class is left out in turn, a few photos of it are taught, and all test photos are answered as served: at once, when
the cache alone knows the class, and after a rebuild, which fits a linear head anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from secondlook.evaluation.served import answers_of
from secondlook.evaluation.studies.drawn import indexed, some_of_each
from secondlook.evaluation.studies.new_classes import NewClasses, new_classes
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.derived import DerivedDataset, subset
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.embedding.kept_features import keeping_of
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.intervals import bootstrap

COUNT = 100
"""Photos of each other class."""
SHOTS = (1, 2, 3, 5, 20)
DRAWS = 3


class Rebuilt(NamedTuple):
    """What so many photos of one class come to once they are indexed with the others: test photos, % right."""

    shots: int
    new: float
    """Of the class."""
    others: float


@dataclass(frozen=True)
class LeftOut:
    """What ``left_out_classes`` measured."""

    network: str
    count: int
    """Photos of each class in the index."""
    classes: dict[str, NewClasses]
    """By the class that was left out, and then taught."""
    rebuilt: dict[str, tuple[Rebuilt, ...]]
    """By that class, each draw."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.network,
            "count": self.count,
            "classes": {name: asdict(one) for name, one in self.classes.items()},
            "rebuilt": {name: [one._asdict() for one in of] for name, of in self.rebuilt.items()},
        }

    def tables(self) -> list[Table]:
        """One: by the number of photos taught."""
        all_of = list(self.classes.values())
        before = bootstrap([one.before.value for one in all_of])
        rows: list[tuple[str, ...]] = [("0", "0.0", "", before.text(), "", "", "")]
        for place, shots in enumerate(point.shots for point in all_of[0].points):
            points = [one.points[place] for one in all_of]
            cells = [_over([getattr(point, field).value for point in points]) for field in ("new", "first", "old")]
            of_shots = [[one for one in of if one.shots == shots] for of in self.rebuilt.values()]
            after = [_over([float(np.mean([one[field] for one in of])) for of in of_shots]) for field in (1, 2)]
            rows.append((f"{shots}", *cells, f"{np.mean([point.taken for point in points]):.2f}", *after))
        return [
            Table(
                f"{self.network}: a class left out of {all_of[0].known} and taught, {self.count} photos of the others",
                (
                    "photos taught",
                    "taught, % right",
                    "cache alone",
                    "others, % right",
                    "others taken for it, %",
                    "after a rebuild, % right",
                    "others then",
                ),
                tuple(rows),
                f"means over {len(all_of)} classes left out in turn, with 95 % intervals over them",
            )
        ]

    def figures(self) -> list[Figure]:
        """None."""
        return []


def left_out_classes(
    name: str,
    source: EncoderSource,
    train: Dataset,
    test: Dataset,
    *,
    count: int = COUNT,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    progress: Progress = silent,
) -> LeftOut:
    """Index all classes but one, teach that one with a few photos, and ask about test photos of all; for each class.

    Raises:
        DatasetError: a class has fewer photos than asked for, or what ``index`` raises.
    """
    some = [some_of_each(train, count, np.random.default_rng(left)) for left in range(len(train.classes))]
    found: dict[str, NewClasses] = {}
    rebuilt: dict[str, tuple[Rebuilt, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if isinstance(source, FromNetwork):  # how photos are shown is measured once, and so they are embedded once
            source = replace(source, root=root)
        for left, label in enumerate(train.classes):
            progress("classes", left, len(train.classes))
            bundle = indexed(without_class(some[left], left), root, source)
            asked = without_class(test, test.classes.index(label))
            found[label] = new_classes(bundle, asked, train, test, shots=shots, draws=draws, classes=1)
            rebuilt[label] = tuple(
                _rebuilt(some[left], left, taught, test, root, np.random.default_rng((left, draw)))
                for draw in range(draws)
                for taught in shots
            )
        progress("classes", len(train.classes), len(train.classes))
    return LeftOut(name, count, found, rebuilt)


def without_class(dataset: Dataset, label: int) -> DerivedDataset:
    """The images of all classes but one, which it has no more."""
    kept = np.flatnonzero(dataset.labels != label)
    names = tuple(name for place, name in enumerate(dataset.classes) if place != label)
    less = subset(dataset, kept)
    labels = less.labels - (less.labels > label)
    return DerivedDataset.of(less, labels=labels, classes=names, own_classes=names)


def with_some_taught(dataset: Dataset, label: int, count: int, random: np.random.Generator) -> DerivedDataset:
    """The images of all classes but one, and after them so many of that one, as if it had been taught."""
    others = without_class(dataset, label)
    theirs, own = np.flatnonzero(dataset.labels != label), np.flatnonzero(dataset.labels == label)
    both = subset(dataset, np.concatenate((theirs, random.permutation(own)[:count])))
    labels = np.concatenate((others.labels, np.full(len(both.labels) - len(theirs), len(others.classes))))
    classes = (*others.classes, dataset.classes[label])
    return DerivedDataset.of(both, labels=labels, classes=classes, own_classes=others.classes, holdout=others.holdout)


def _rebuilt(
    dataset: Dataset, label: int, shots: int, test: Dataset, root: Path, random: np.random.Generator
) -> Rebuilt:
    bundle = indexed(with_some_taught(dataset, label, shots, random), root, FromBundle(root))
    said, truth = _answered(bundle, test, root)
    is_new = truth == dataset.classes[label]
    return Rebuilt(shots, *(100 * float((said[rows] == truth[rows]).mean()) for rows in (is_new, ~is_new)))


def _answered(bundle: Bundle, test: Dataset, root: Path) -> tuple[Any, Any]:
    """The classes (n,) that images of a dataset are answered with, as served, and those that they are of."""
    ordered = of_bundle(test, bundle.manifest)
    with keeping_of(root, bundle) as kept:
        asked = embed_queries(ordered, np.arange(len(ordered.labels)), bundle, kept=kept)
    classes = np.array(bundle.manifest.classes)
    return classes[answers_of(Overlay(bundle), asked).mixed.argmax(axis=1)], classes[asked.labels]


def _over(values: list[float]) -> str:
    return bootstrap(values).text(1)

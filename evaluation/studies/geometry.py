"""What choosing how photos are shown to a network comes to: how often which geometry is chosen, and what follows.

Some photos of each class are drawn and asked as ``secondlook index`` asks them (``indexer.fitting.views``); the cache
of those photos answers the test photos, shown as is declared and as was chosen. Each candidate runs once on all photos.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secondlook.evaluation.studies.drawn import draw_of_each
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.fitting.drawn import Drawn, draw
from secondlook.indexer.fitting.evidence import Labels, Seen, neighbour_losses, see
from secondlook.indexer.fitting.race import Race, Racer
from secondlook.indexer.fitting.views import Choice
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.cache import Floats
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import Preprocess

COUNTS = (5, 20, 100)
DRAWS = 20
THETAS = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)


@dataclass(frozen=True)
class Candidate:
    """One way to show photos."""

    views: str
    cost: float
    """The network's work, times that of the declared one."""
    images_per_second: float
    """Of the network, with its arithmetic and without decoding, on this machine."""
    right_percent: dict[int, float]
    """Of test photos, by photos of each class: means over the draws."""


@dataclass(frozen=True)
class Chosen:
    """What so many photos of each class chose."""

    count: int
    draws: int
    picks: dict[str, int]
    """How often which was."""
    declared_percent: float
    """Of test photos that the cache answers right, shown as is declared: means over the draws."""
    chosen_percent: float
    speed: float
    """What is left of the network's speed."""


@dataclass(frozen=True)
class GeometryFound:
    """What ``geometry`` measured."""

    network: str
    dataset: str
    test: int
    """Test photos."""
    chosen: tuple[Chosen, ...]
    candidates: tuple[Candidate, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Two: what is chosen, and what each candidate is worth."""
        rows = []
        for one in self.chosen:
            picks = ", ".join(f"{views} ({times})" for views, times in one.picks.items())
            figures = f"{one.declared_percent:.1f}", f"{one.chosen_percent:.1f}", f"{one.speed:.2f}"
            rows.append((f"{one.count}", picks, *figures))
        about = f"{self.network} on {self.dataset}: the cache alone, {self.test:,} test photos"
        counts = [one.count for one in self.chosen]
        first = self.candidates[0].images_per_second
        each = [
            (
                one.views,
                f"{one.images_per_second:.0f}",
                f"{one.images_per_second / first:.2f}",
                *(f"{one.right_percent[count]:.1f}" for count in counts),
            )
            for one in self.candidates
        ]
        columns = ("photos a class", "chosen (draws)", "declared, % right", "chosen, % right", "speed left")
        note = "Means over draws. Speed: the work that is declared, over that of what is chosen."
        return [
            Table(f"{about}, shown as was chosen", columns, tuple(rows), note, names=2),
            Table(
                f"{about}, shown in each way that was tried",
                ("shown", "images/s", "times the declared", *(f"{count} a class, % right" for count in counts)),
                tuple(each),
                "On the same draws, whatever they chose.",
            ),
        ]

    def figures(self) -> list[Figure]:
        """None."""
        return []


def geometry(
    network: OnnxNetwork,
    name: str,
    train: Dataset,
    test: Dataset,
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
    progress: Progress = silent,
) -> GeometryFound:
    """Choose on photos of ``train``, and answer those of ``test``.

    Raises:
        DatasetError: a class has fewer photos than asked for.
    """
    known, asked = (_Photos(network, dataset) for dataset in (train, test))
    labels = known.labels
    places = {label: place for place, label in enumerate(train.classes)}
    truth = np.array([places.get(test.classes[label], -1) for label in asked.labels.tolist()])
    fewest = min(np.bincount(labels, minlength=len(train.classes)))
    declared = network.preprocess
    rows_of = {count: list(_rows(train, labels, count, draws if count < fewest else 1)) for count in counts}
    of_draws: dict[int, list[tuple[Labels, Preprocess]]] = {}
    for done, count in enumerate(counts):
        of_draws[count] = []
        for rows in rows_of[count]:
            race = _Looked(network, known, rows)
            _, choice = Choice().make(race, Racer("declared", network, declared))
            of_draws[count].append((rows, declared if choice is None else choice.preprocess))
        progress("choose", done + 1, len(counts))
    right: dict[Preprocess, dict[int, list[float]]] = {}
    for done, preprocess in enumerate(list(known.keys), 1):
        right[preprocess] = {
            count: [
                _right(known.keys_of(preprocess)[rows], labels[rows], asked.keys_of(preprocess), truth)
                for rows, _ in made
            ]
            for count, made in of_draws.items()
        }
        progress("answer", done, len(known.keys))
    chosen = []
    for count, made in of_draws.items():
        picked = [preprocess for _, preprocess in made]
        chosen.append(
            Chosen(
                count,
                len(made),
                dict(Counter(preprocess.views for preprocess in picked).most_common()),
                float(np.mean(right[declared][count])),
                float(np.mean([right[one][count][place] for place, one in enumerate(picked)])),
                float(np.mean([declared.work / one.work for one in picked])),
            )
        )
    candidates = [
        Candidate(
            one.views,
            round(one.work / declared.work, 3),
            known.speeds[one],
            {count: float(np.mean(values)) for count, values in of.items()},
        )
        for one, of in right.items()
    ]
    return GeometryFound(name, train.name, len(truth), tuple(chosen), tuple(candidates))


def _rows(train: Dataset, labels: Labels, count: int, draws: int) -> Iterator[Labels]:
    for place in range(draws):
        random = np.random.default_rng((count, place))
        yield random.permutation(draw_of_each(train, labels, count, random))


class _Photos:
    """All photos of a dataset that can be read, and their keys, each way of showing them run once."""

    def __init__(self, network: OnnxNetwork, dataset: Dataset) -> None:
        self._network, self._recipe = network, default_recipe(network)
        every = np.arange(len(dataset.labels))
        self._drawn: Drawn = draw(dataset, every, len(every), network.preprocess.geometry)
        self.labels = self._drawn.labels
        self.keys: dict[Preprocess, Floats] = {}
        self.speeds: dict[Preprocess, float] = {}
        """Images a second."""

    def keys_of(self, preprocess: Preprocess) -> Floats:
        """(n,D)."""
        if preprocess not in self.keys:
            read = self._drawn.read
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                found = pool.map(lambda position: read(position, preprocess.geometry), self._drawn.positions)
                images = np.stack(list(found))
            taking = self._network.taking(preprocess)
            see(taking, images[:1], self._recipe)  # its session is made
            start = time.perf_counter()
            self.keys[preprocess] = see(taking, images, self._recipe).keys
            self.speeds[preprocess] = len(images) / (time.perf_counter() - start)
        return self.keys[preprocess]


class _Looked(Race):
    """A race on photos at ``rows``, whose keys are looked up."""

    def __init__(self, network: OnnxNetwork, photos: _Photos, rows: Labels) -> None:
        super().__init__(network, _none, rows.tolist(), photos.labels[rows], None, silent, keys_alone=True)
        self._photos, self._rows = photos, rows

    def _extend(self, racer: Racer, end: int) -> None:
        racer.seen = Seen(None, self._photos.keys_of(racer.preprocess)[self._rows[:end]])


def _none(position: int, shape: object) -> Any:
    raise AssertionError("keys are looked up")


def _right(keys: Floats, labels: Labels, queries: Floats, truth: Labels) -> float:
    """Percent of queries (m,D) that the vote of keys (n,D) gives the right label, as sharp as leave-one-out says."""
    theta = min(THETAS, key=lambda one: float(neighbour_losses(keys, labels, one).mean()))
    similar = queries @ keys.T
    weights = np.exp(theta * (similar - similar.max(axis=1, keepdims=True)))
    classes = np.unique(labels)
    votes = weights @ (labels[:, None] == classes[None, :])
    return float(100 * (classes[votes.argmax(axis=1)] == truth).mean())

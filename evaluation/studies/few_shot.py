"""How good answers are with few labelled photos of each class, and whether sets of labels hold what they promise then.

Some photos of each class are drawn, indexed as ``secondlook index`` does, and all test photos are answered as served;
several draws are made, since a few photos are mostly luck.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.evaluation.served import Answers, answers_of
from secondlook.evaluation.studies.drawn import indexed, some_of_each
from secondlook.evaluation.studies.promises import expected_share
from secondlook.indexer.datasets.by_name import of_bundle
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.embedding.kept_features import keeping_of
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.plots import MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import highest_score, rank_for
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Ints
from secondlook.model.scoring import error_percent, nll

COUNTS = (5, 20, 100)
DRAWS = 3
COVERAGES = (0.9, 0.95)


@dataclass(frozen=True)
class Sets:
    """Sets of labels of one draw: the share that holds the right one."""

    got: float
    expected: tuple[float, float]
    """Between which it is 19 times of 20, where the promise is kept."""


@dataclass(frozen=True)
class Drawn:
    """What an index of so many photos of each class comes to."""

    head: str
    parameters_from: str
    geometry: str
    theta: float
    lam: float
    k: int | None
    right_percent: dict[str, float]
    """Of test photos, by the name of each model."""
    nll: dict[str, float]
    sets: dict[str, Sets]
    """By coverage in percent; none where sets are not calibrated."""


@dataclass(frozen=True)
class FewShot:
    """What ``few_shot`` measured."""

    network: str
    dataset: str
    images: int
    """Test photos."""
    draws: dict[int, tuple[Drawn, ...]]
    """By photos of each class."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Two: how good answers are, and what sets hold."""
        rows, kept = [], []
        for count, draws in self.draws.items():
            cells = [f"{count:,}"]
            for name in MODELS:
                if (right := self._mean(draws, "right_percent", name)) is None:
                    cells.append("")
                    continue
                cells.append(f"{right:.1f} ({self._mean(draws, 'nll', name):.3f})")
            cells.append(", ".join(f"{one.lam:g}" for one in draws[:3]) + (", …" if len(draws) > 3 else ""))
            cells.append("; ".join(dict.fromkeys(one.geometry for one in draws)))
            rows.append(tuple(cells))
            for coverage in COVERAGES:
                found = [one.sets[_percent(coverage)] for one in draws if _percent(coverage) in one.sets]
                if found:
                    inside = sum(one.expected[0] <= one.got <= one.expected[1] for one in found)
                    low, high = (100 * float(np.mean([one.expected[side] for one in found])) for side in (0, 1))
                    mean = 100 * float(np.mean([one.got for one in found]))
                    kept.append(
                        (
                            f"{count:,}",
                            f"{_percent(coverage)} %",
                            f"{mean:.1f}",
                            f"{low:.1f} to {high:.1f}",
                            f"{inside} of {len(found)}",
                        )
                    )
        of = next(iter(self.draws.values()))
        head = of[0].head
        tables = [
            Table(
                f"{self.network} on {self.dataset}, {self.images:,} test photos, head {head}",
                ("photos a class", *(f"{style.label}, % right (NLL)" for style in MODELS.values()), "lam", "geometry"),
                tuple(rows),
                f"means of {len(of)} draws; parameters from {of[0].parameters_from}",
            )
        ]
        if kept:
            columns = ("photos a class", "sets of", "hold the label, %", "a kept promise", "draws inside it")
            note = "where a kept promise lies 19 times of 20, with so many photos to calibrate on and to ask about"
            tables.append(Table("sets of labels", columns, tuple(kept), note, names=2))
        return tables

    def figures(self) -> list[Figure]:
        """Right answers by photos of each class."""
        best = max(self.draws)
        right = self._mean(self.draws[best], "right_percent", "mixed")
        return [
            Figure(
                "few-shot",
                f"{right:.0f} % right with {best} photos of each class",
                self._draw,
                "The share of test photos that are answered right grows with the photos of each class, for the head, "
                "the cache alone and their mixture.",
            )
        ]

    def _draw(self, into: Any) -> None:
        axes = into.subplots()
        for name, style in MODELS.items():
            of = {count: self._mean(draws, "right_percent", name) for count, draws in self.draws.items()}
            points = {count: value for count, value in of.items() if value is not None}
            if points:
                axes.plot(list(points), list(points.values()), **style.keywords)
        axes.set(xscale="log", xlabel="photos of each class", ylabel="test photos right, %")
        axes.set_xticks(list(self.draws), [str(count) for count in self.draws])
        axes.minorticks_off()
        axes.legend()

    @staticmethod
    def _mean(draws: Sequence[Drawn], field: str, name: str) -> float | None:
        values = [getattr(one, field)[name] for one in draws if name in getattr(one, field)]
        return float(np.mean(values)) if values else None


def few_shot(
    name: str,
    source: EncoderSource,
    train: Dataset,
    test: Dataset,
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
    progress: Progress = silent,
) -> FewShot:
    """Index drawn photos of ``train`` and answer those of ``test``.

    Raises:
        DatasetError: a class has fewer photos than asked for, or what ``index`` raises.
    """
    drawn = {
        count: [some_of_each(train, count, np.random.default_rng((count, place))) for place in range(draws)]
        for count in counts
    }
    found: dict[int, list[Drawn]] = {count: [] for count in counts}
    asked = done = 0
    with tempfile.TemporaryDirectory() as folder:
        for count, datasets in drawn.items():
            for dataset in datasets:
                progress("draws", done, len(counts) * draws)
                one, asked = _drawn(indexed(dataset, Path(folder), source), Path(folder), test)
                found[count].append(one)
                done += 1
        progress("draws", done, done)
    return FewShot(name, f"{train.name}", asked, {count: tuple(made) for count, made in found.items()})


def _drawn(bundle: Bundle, root: Path, test: Dataset) -> tuple[Drawn, int]:
    manifest = bundle.manifest
    ordered = of_bundle(test, manifest)
    with keeping_of(root, bundle) as kept:  # other draws have the same test photos
        asked = embed_queries(ordered, np.arange(len(ordered.labels)), bundle, kept=kept)
    said = answers_of(Overlay(bundle), asked)
    models = dict(zip(MODELS, (said.network, said.mixed, said.cache), strict=True))
    if not manifest.has_head:
        del models[next(iter(models))]
    drawn = Drawn(
        manifest.head,
        manifest.parameters_from,
        manifest.preprocess.views,
        manifest.theta,
        manifest.lam,
        manifest.k,
        {name: 100 - error_percent(one, asked.labels) for name, one in models.items()},
        {name: nll(one, asked.labels) for name, one in models.items()},
        dict(_sets(bundle, said, asked.labels)),
    )
    return drawn, len(asked.labels)


def _sets(bundle: Bundle, said: Answers, labels: Ints) -> Iterator[tuple[str, Sets]]:
    calibration = bundle.manifest.calibration
    if calibration is None or calibration.sets is None:
        return
    scores = 1.0 - said.mixed[np.arange(len(labels)), labels].astype(np.float64)
    held = calibration.sets.images
    for coverage in COVERAGES:
        got = float((scores <= highest_score(calibration.sets, coverage)).mean())
        yield _percent(coverage), Sets(got, expected_share(rank_for(held, coverage), held, len(labels)))


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g}"

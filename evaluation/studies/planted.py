"""How good an audit is: wrong labels are planted in a bundle's entries, in memory, and the audit has to find them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.curation.neighbors import Images, LabelVotes, images_of, neighborhoods, theta_and_k
from secondlook.indexer.plots import COLOURS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Ints
from secondlook.model.errors import ParameterError
from secondlook.model.intervals import Interval

SEEDS = 10
RECALLS = (0.5, 0.8, 0.9)
MOST = 0.5
"""Above that share of wrong labels there is no majority to go by."""

POINTS = 100
"""Recalls at which the curve is drawn, evenly up to 1."""


@dataclass(frozen=True)
class Planted:
    """How well planted labels are found: means over the seeds, between the lowest and the highest of them.

    What is wrong already counts as a false alarm, so that precision is a little higher than it says.
    """

    generation: str
    dataset: str
    images: int
    """Those that were ranked."""
    share: float
    planted: int
    """Wrong labels among them, on average."""
    seeds: int
    theta: float
    k: int
    average_precision: Interval
    at_planted: Interval
    """Precision, and recall, of the first so many as were planted."""
    precision: dict[float, Interval]
    """At which recall."""
    doubted: Interval
    """Share of images with a score above 0."""
    doubted_precision: Interval
    doubted_recall: Interval
    restored: Interval
    """Of the planted images doubted, for how many the label suggested is the one they had."""
    curve: tuple[tuple[float, float, float, float], ...]
    """Recall; mean, lowest and highest precision."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        intervals = {name: value._asdict() for name, value in vars(self).items() if isinstance(value, Interval)}
        precision = {f"{recall:g}": found._asdict() for recall, found in self.precision.items()}
        return asdict(self) | intervals | {"precision": precision}

    def tables(self) -> list[Table]:
        """One."""
        rows = [
            ("average precision", self.average_precision),
            ("precision (and recall) of the first as many as were planted", self.at_planted),
            *((f"precision at {100 * recall:g} % recall", found) for recall, found in self.precision.items()),
            ("doubted, of all images", self.doubted),
            ("precision of what is doubted", self.doubted_precision),
            ("recall of what is doubted", self.doubted_recall),
            ("right label suggested, of the planted ones doubted", self.restored),
        ]
        return [
            Table(
                f"{self.planted:,} wrong labels planted in {self.images:,} images ({100 * self.share:g} %), "
                f"{self.dataset}, generation {self.generation}",
                ("", "%"),
                tuple((name, Interval(*(100 * value for value in found)).text()) for name, found in rows),
                f"theta {self.theta:g}, k {self.k}; mean of {self.seeds} seeds, in brackets the lowest and the "
                "highest; labels that were wrong before count as false alarms",
            )
        ]

    def figures(self) -> list[Figure]:
        """Precision by recall."""
        return [
            Figure(
                "planted",
                f"Planted wrong labels, {100 * self.share:g} %: average precision "
                f"{100 * self.average_precision.value:.1f} %,\n"
                f"{100 * self.at_planted.value:.1f} % of the first {self.planted:,} images are planted ones",
                self._draw,
                "Precision by recall: the mean over the seeds, and between which values they lie.",
            )
        ]

    def _draw(self, into: Any) -> None:
        axes = into.subplots()
        recall, mean, low, high = (100 * np.array(column) for column in zip(*self.curve, strict=True))
        axes.fill_between(recall, low, high, color=COLOURS[0], alpha=0.25, linewidth=0, label="lowest to highest seed")
        axes.plot(recall, mean, color=COLOURS[0], label=f"mean of {self.seeds} seeds")
        axes.axhline(100 * self.planted / self.images, color=COLOURS[-1], linestyle=":", label="by chance")
        axes.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 102))
        axes.legend(loc="lower left")


def planted(
    bundle: Bundle,
    share: float,
    *,
    seeds: int = SEEDS,
    theta: float | None = None,
    k: int | None = None,
    sources: Collection[str] | None = None,
    progress: Progress = silent,
) -> Planted:
    """Plant that share of wrong labels, as often as there are seeds, and rank all images by the audit's score.

    An image's copies get the same wrong label, any of the others with equal probability. With ``sources``, only images
    of those are ranked; labels are planted in the others too. Neighbours are looked for once.

    Raises:
        ParameterError: a parameter is out of its range, there is one class, or nothing is planted in what is ranked.
    """
    names = bundle.manifest.classes
    if not 0 < share <= MOST:
        raise ParameterError(f"the share of planted labels must be above 0 and at most {MOST:g}, not {share}")
    if len(names) < 2:
        raise ParameterError("there is no wrong label where there is one class")
    cache = Overlay(bundle)
    theta, k = theta_and_k(cache, theta, k)
    by_class = cache.class_weights
    images = images_of(cache)
    listed = np.arange(len(images.first))
    if sources is not None:
        wanted = frozenset(sources)
        listed = np.array([i for i, source in enumerate(images.sources) if source in wanted], np.int64)
    labels = [plant(images, share, len(names), seed) for seed in range(seeds)]
    if not all((given != images.labels)[listed].any() for given in labels):
        raise ParameterError(f"no label was planted among {len(listed):,} images: ask for more")
    votes = [LabelVotes(images, len(names)) for _ in labels]
    values = [given[images.of] for given in labels]
    for rows, found in neighborhoods(cache, images, k, progress):
        for of, now in zip(votes, values, strict=True):
            changed = np.where(found.ids >= 0, now[found.ids], -1)
            of.add(rows, now[rows], found.similarities, changed, theta, by_class)
    runs = [_measure(of, given, images, listed) for of, given in zip(votes, labels, strict=True)]
    curves = np.stack([run.pop("curve") for run in runs])
    figures = {name: _over_seeds([run[name] for run in runs]) for name in runs[0]}
    return Planted(
        generation=bundle.manifest.generation,
        dataset=f"{bundle.manifest.dataset.name} {bundle.manifest.dataset.split}",
        images=len(listed),
        share=share,
        planted=round(float(np.mean([(given != images.labels)[listed].sum() for given in labels]))),
        seeds=seeds,
        theta=theta,
        k=k,
        precision={recall: figures.pop(f"{recall:g}") for recall in RECALLS},
        curve=tuple(
            ((i + 1) / POINTS, float(at.mean()), float(at.min()), float(at.max())) for i, at in enumerate(curves.T)
        ),
        **figures,
    )


def plant(images: Images, share: float, classes: int, seed: int) -> Ints:
    """Return the images' labels (M,) with that share of them wrong, at least one."""
    random = np.random.default_rng(seed)
    labels = images.labels.copy()
    chosen = random.permutation(len(labels))[: max(1, round(share * len(labels)))]
    labels[chosen] = (labels[chosen] + random.integers(1, classes, len(chosen))) % classes
    return labels


def precision_by_recall(wrong: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall (n,) after each of the images, in the order in which they are suspected."""
    found = wrong.cumsum()
    return found / np.arange(1, len(wrong) + 1), found / found[-1]


def _measure(votes: LabelVotes, given: Ints, images: Images, listed: Ints) -> dict[str, Any]:
    scores, suggested, _, _ = (figures[listed] for figures in votes.of_images())
    truth = images.labels[listed]
    wrong = given[listed] != truth
    # Among equal scores, planted ones last: no luck is counted.
    order = np.lexsort((wrong, -scores))
    ranked, doubted = wrong[order], scores > 0
    precision, recall = precision_by_recall(ranked)
    count = int(wrong.sum())
    caught = doubted & wrong
    return {
        "average_precision": float(precision[ranked].mean()),
        "at_planted": float(precision[count - 1]),
        **{f"{level:g}": float(precision[np.searchsorted(recall, level - 1e-9)]) for level in RECALLS},
        "doubted": float(doubted.mean()),
        "doubted_precision": float(caught.sum() / max(doubted.sum(), 1)),
        "doubted_recall": float(caught.sum() / count),
        "restored": float((suggested == truth)[caught].mean()) if caught.any() else 0.0,
        "curve": precision[np.searchsorted(recall, np.arange(1, POINTS + 1) / POINTS - 1e-9)],
    }


def _over_seeds(values: list[float]) -> Interval:
    return Interval(float(np.mean(values)), min(values), max(values))

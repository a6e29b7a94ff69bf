"""What an order of labelling is worth: how good answers are after so many labels, in the suggested order and at random.

Each time a part of the photos is drawn, and a cache that knows nothing is taught them ten by ten, as on the page: what
``curation.suggest`` gives for what is known by then, or ten by chance. Test photos are answered by the cache, as it is
served at once, and by a linear head that is fitted to the labels, as a rebuild does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from secondlook.curation.suggest import BATCH, suggest
from secondlook.indexer.datasets.datasets import Dataset, nothing
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.embedding.kept_features import keeping_of
from secondlook.indexer.embedding.queries import EmbeddedQueries, embed_queries
from secondlook.indexer.fitting.cross_validation import choose_strength, fit_linear_head
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.plots import MODELS
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import Ints
from secondlook.model.errors import DatasetError
from secondlook.model.intervals import Interval, bootstrap

COUNTS = (20, 50, 100, 200)
DRAWS = 10
SHARE = 0.8
"""Of the photos, drawn each time."""

Rule = Literal["random", "suggested"]
RULES: tuple[Rule, ...] = get_args(Rule)
BY = {"head": "a linear head", "cache": "the cache"}


@dataclass(frozen=True)
class Point:
    """After so many labels."""

    labels: int
    classes: int
    """Of which any photo is labelled."""
    head: float
    """Test photos right, in percent, by a linear head."""
    cache: float
    """By the cache."""


@dataclass(frozen=True)
class Labelling:
    """What ``labelling`` measured."""

    network: str
    dataset: str
    classes: int
    pool: int
    """Photos that were drawn each time."""
    images: int
    """Test photos."""
    batch: int
    draws: dict[Rule, tuple[tuple[Point, ...], ...]]
    """By the rule, each draw; the same photos were drawn for both."""
    filled: int
    """Photos that were taken by chance, as no more were suggested."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Two: what a linear head says, and the cache."""
        return [self._table(by) for by in BY]

    def figures(self) -> list[Figure]:
        """Right answers by the number of labels."""
        first = self._labels[0]
        chance, ours = (f"{self._interval('head', rule, 0).value:.0f} %" for rule in RULES)
        return [
            Figure(
                "suggest",
                f"{self.dataset}: {ours} right after {first} labels, at random {chance}",
                self._draw,
                "The share of test photos that are answered right grows with the labels, and faster where photos are "
                "labelled in the suggested order than at random; the bands are 95 % intervals.",
            )
        ]

    @property
    def _labels(self) -> list[int]:
        return [point.labels for point in self.draws["random"][0]]

    def _interval(self, by: str, rule: Rule, place: int) -> Interval:
        return bootstrap([getattr(draw[place], by) for draw in self.draws[rule]])

    def _gain(self, by: str, place: int) -> Interval:
        pairs = zip(self.draws["suggested"], self.draws["random"], strict=True)
        return bootstrap([getattr(ours[place], by) - getattr(chance[place], by) for ours, chance in pairs])

    def _table(self, by: str) -> Table:
        rows = []
        for place, labels in enumerate(self._labels):
            seen = {rule: np.mean([draw[place].classes for draw in self.draws[rule]]) for rule in RULES}
            rows.append(
                (
                    f"{labels:,}",
                    *(self._interval(by, rule, place).text(1) for rule in RULES),
                    self._gain(by, place).text(1),
                    *(f"{seen[rule]:.1f}" for rule in RULES),
                )
            )
        return Table(
            f"{self.network} on {self.dataset}: {BY[by]}, {self.images:,} test photos, % right",
            ("labels", "at random", "suggested", "gain", "classes seen, at random", "suggested"),
            tuple(rows),
            f"means of {len(self.draws['random'])} draws of {self.pool:,} photos of {self.classes} classes, with 95 % "
            f"intervals over them; labelled in batches of {self.batch}",
        )

    def _draw(self, into: Any) -> None:
        axes = into.subplots(1, len(BY), sharey=True)
        styles = {"random": MODELS["network"], "suggested": MODELS["mixed"]}
        for of, (by, title) in zip(axes, BY.items(), strict=True):
            for rule in RULES:
                style = styles[rule]
                found = [self._interval(by, rule, place) for place in range(len(self._labels))]
                named = {**style.keywords, "label": "suggested" if rule == "suggested" else "at random"}
                of.plot(self._labels, [one.value for one in found], **named)
                of.fill_between(
                    self._labels,
                    [one.low for one in found],
                    [one.high for one in found],
                    color=style.colour,
                    alpha=0.15,
                    linewidth=0,
                )
            of.set(xscale="log", xlabel="labels", title=title)
            of.set_xticks(self._labels, [str(labels) for labels in self._labels])
            of.minorticks_off()
        axes[0].set(ylabel="test photos right, %")
        axes[0].legend()


def labelling(
    name: str,
    source: EncoderSource,
    train: Dataset,
    test: Dataset,
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
    progress: Progress = silent,
) -> Labelling:
    """Label photos of ``train`` in both orders, and ask about those of ``test``.

    Raises:
        DatasetError: there are fewer photos than labels asked for, or what ``index`` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generation = index(nothing(), root, source, IndexOptions(thumbnails=False, engines=False))
        bundle = open_bundle(root, generation, even_empty=True)
        with keeping_of(root, bundle) as kept:
            photos = embed_queries(train, np.arange(len(train.labels)), bundle, progress, kept=kept)
            asked = embed_queries(test, np.arange(len(test.labels)), bundle, progress, kept=kept)
        asked = replace(asked, labels=_by_name(train, test)[asked.labels])
        pool = round(SHARE * len(photos.labels))
        if pool < max(counts):
            raise DatasetError(
                f"{train.name} has {len(photos.labels):,} photos, of which {pool:,} are drawn: ask for fewer labels "
                f"than {max(counts):,}"
            )
        found: dict[Rule, list[tuple[Point, ...]]] = {rule: [] for rule in RULES}
        filled = 0
        for draw in range(draws):
            random = np.random.default_rng(draw)
            drawn = photos.part(np.sort(random.permutation(len(photos.labels))[:pool]))
            for rule in RULES:
                progress("draws", len(RULES) * draw + RULES.index(rule), len(RULES) * draws)
                taught = _Taught(bundle, train.classes, drawn, asked, rule, np.random.default_rng((draw, 1)))
                found[rule].append(taught.points(counts))
                filled += taught.filled
        progress("draws", len(RULES) * draws, len(RULES) * draws)
    return Labelling(
        name,
        train.name,
        len(train.classes),
        pool,
        len(asked.labels),
        BATCH,
        {rule: tuple(of) for rule, of in found.items()},
        filled,
    )


class _Taught:
    """A cache that knows nothing, and is taught photos batch by batch."""

    def __init__(
        self,
        bundle: Bundle,
        classes: tuple[str, ...],
        pool: EmbeddedQueries,
        asked: EmbeddedQueries,
        rule: Rule,
        random: np.random.Generator,
    ) -> None:
        self._classes, self._pool, self._asked, self._random = classes, pool, asked, random
        self._choose: Callable[[Ints, int], Ints] = self._suggested if rule == "suggested" else self._by_chance
        self._predictor = Predictor(bundle, Overlay(bundle))
        self._taken = np.empty(0, np.int64)
        self.filled = 0

    def points(self, counts: Sequence[int]) -> tuple[Point, ...]:
        """Teach, and ask after so many."""
        found = []
        for count in sorted(counts):
            while (wanted := min(BATCH, count - len(self._taken))) > 0:
                left = np.setdiff1d(np.arange(len(self._pool.labels)), self._taken)
                self._teach(self._choose(left, wanted))
            found.append(self._ask())
        return tuple(found)

    def _by_chance(self, left: Ints, wanted: int) -> Ints:
        return self._random.permutation(left)[:wanted]

    def _suggested(self, left: Ints, wanted: int) -> Ints:
        order = suggest(self._predictor, self._pool.keys[left], self._pool.logits[left], count=wanted)
        chosen = left[[one.place for one in order.suggested]]
        self.filled += wanted - len(chosen)
        return np.concatenate((chosen, self._by_chance(np.setdiff1d(left, chosen), wanted - len(chosen))))

    def _teach(self, rows: Ints) -> None:
        overlay, pool = self._predictor.overlay, self._pool
        images = {
            1 + len(self._taken) + nth: (self._classes[pool.labels[row]], {False: pool.keys[row]})
            for nth, row in enumerate(rows.tolist())
        }
        self._taken = np.concatenate((self._taken, rows))
        overlay = overlay.changed(overlay.change + 1, overlay.token, labels={}, images=images, corrections={})
        self._predictor = Predictor(overlay.bundle, overlay)

    def _ask(self) -> Point:
        keys, labels, asked = self._pool.keys[self._taken], self._pool.labels[self._taken], self._asked
        choice = choose_strength(keys, labels, np.arange(len(labels)), len(self._classes))
        head = fit_linear_head(keys, labels, len(self._classes), choice).head
        place = {label: number for number, label in enumerate(self._classes)}
        of = np.array([place[label] for label in self._predictor.classes], np.int64)
        said = of[[int(answer.mixed.argmax()) for answer in self._predictor.of_keys(asked.logits, asked.keys)]]
        return Point(
            len(labels),
            len(np.unique(labels)),
            100 * float((head.logits(asked.keys).argmax(axis=1) == asked.labels).mean()),
            100 * float((said == asked.labels).mean()),
        )


def _by_name(train: Dataset, test: Dataset) -> Ints:
    """The class of ``train`` that each of ``test`` is."""
    place = {label: number for number, label in enumerate(train.classes)}
    if strange := [label for label in test.classes if label not in place]:
        raise DatasetError(f"{train.name} has test photos of {strange[0]}, and none to learn it from: add some")
    return np.array([place[label] for label in test.classes], np.int64)

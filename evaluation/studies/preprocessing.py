"""How often a mistaken preprocessing is caught by labelled images, and how often the right one is refused.

A network whose declared preprocessing is right is declared wrongly, as people do it; a number of the images is drawn,
and the proof (``indexer.fitting.preprocessing``) asked what it says. Each candidate runs once on all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.fitting.drawn import Drawn, draw
from secondlook.indexer.fitting.evidence import Labels, Seen, see, surprise
from secondlook.indexer.fitting.evidence import judges as evidence_of
from secondlook.indexer.fitting.preprocessing import candidates, differ
from secondlook.indexer.fitting.race import Need, clearly_by, decide
from secondlook.indexer.fitting.views import geometries
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.cache import Floats
from secondlook.model.errors import DatasetError
from secondlook.model.images import Geometry, Rule
from secondlook.model.intervals import Interval, wilson
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess

COUNTS = (50, 100, 200)
DRAWS = 100
PHOTOS = 600
"""Images that are drawn from, at most."""
MATCHED, UNMATCHED, HEADLESS = "with a matching head", "no class of the head's matches", "without a head"
RIGHT = "none: the right one"


@dataclass(frozen=True)
class Tally:
    """What was said of one declaration, on so many images, in all draws."""

    judges: str
    mistake: str
    images: int
    beaten: int
    """Draws in which it was refused (of a geometry: another one suggested)."""
    named: int
    """Those of them in which the right one was named instead."""
    hinted: int
    """Draws in which nothing was told for certain, and the right one did a little better."""


@dataclass(frozen=True)
class PreprocessingFound:
    """What ``preprocessing`` measured."""

    network: str
    dataset: str
    right: str
    photos: int
    """Images that were drawn from; with a matching head those of the classes that it knows."""
    draws: int
    counts: tuple[int, ...]
    tallies: tuple[Tally, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """One for each kind of evidence."""
        made = []
        for judges in dict.fromkeys(tally.judges for tally in self.tallies):
            of = {(tally.mistake, tally.images): tally for tally in self.tallies if tally.judges == judges}
            rows = [
                (mistake, *(self._cell(of.get((mistake, count))) for count in self.counts))
                for mistake in dict.fromkeys(mistake for mistake, _ in of)
            ]
            made.append(
                Table(
                    f"{self.network} on {self.dataset}, {judges}: refused, in % of draws",
                    ("mistake", *(f"{count:,} images" for count in self.counts)),
                    tuple(rows),
                    f"Right: {self.right}. {self.draws} draws from {self.photos:,} images (50 % means "
                    f"{self._half()}). In brackets: the right one named instead + found a little better, no more.",
                )
            )
        return made

    def figures(self) -> list[Figure]:
        """None."""
        return []

    def _cell(self, tally: Tally | None) -> str:
        if tally is None:
            return "-"
        beaten, named, hinted = (100 * part / self.draws for part in (tally.beaten, tally.named, tally.hinted))
        if tally.mistake.startswith(RIGHT):
            return f"{beaten:.0f}"
        return f"{beaten:.0f} ({named:.0f} + {hinted:.0f})"

    def _half(self) -> str:
        return Interval(*(100 * value for value in wilson(self.draws // 2, self.draws))).text(0)


def mistakes(right: Arithmetic) -> dict[str, Arithmetic]:
    """What people declare instead, less what hardly differs from what is right."""
    imagenet = Arithmetic(mean=IMAGENET_MEAN, std=IMAGENET_STD, layout=right.layout)
    swapped = "BGR" if right.channels == "RGB" else "RGB"
    made = {
        swapped: right.model_copy(update={"channels": swapped}),
        "x/255": Arithmetic(layout=right.layout),
        "0..255": Arithmetic(scale=1.0, layout=right.layout),
        "ImageNet's mean and std": imagenet,
        f"these and {swapped}": imagenet.model_copy(update={"channels": swapped}),
    }
    return {name: wrong for name, wrong in made.items() if differ(wrong, right)}


def preprocessing(
    network: OnnxNetwork,
    name: str,
    dataset: Dataset,
    match: ClassMatch | None,
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
    photos: int = PHOTOS,
    progress: Progress = silent,
) -> PreprocessingFound:
    """Take a network's preprocessing for right, and declare mistaken ones.

    Raises:
        DatasetError: too few images can be read.
    """
    right = network.preprocess
    drawn = draw(dataset, np.arange(len(dataset.labels)), photos, right.geometry)
    if len(drawn.positions) < max(counts):
        raise DatasetError(
            f"{dataset.name} ({dataset.split}) has {len(drawn.positions):,} images that can be read, and "
            f"{max(counts):,} were asked for: give fewer with --images"
        )
    trials = list(_trials(right, drawn))
    tried = list(dict.fromkeys(candidate for trial in trials for candidate in trial.candidates))
    seen: dict[Preprocess, Seen] = {}
    for done, candidate in enumerate(tried, 1):
        images = np.stack([drawn.read(position, candidate.geometry) for position in drawn.positions])
        seen[candidate] = see(network.taking(candidate), images, default_recipe(network))
        progress("run", done, len(tried))
    tallies = []
    evidence = _evidence(network, match)
    for step, (judges, by) in enumerate(evidence):
        able = np.arange(len(drawn.labels))
        if by is not None:
            able = able[np.isin(drawn.labels, by.known)]
        given = {key: Seen(None, one.keys) for key, one in seen.items()} if judges == HEADLESS else seen
        for place, count in enumerate(counts):
            if count > len(able):
                continue
            asked = evidence_of(by, has_head=judges != HEADLESS)
            found = [_Count(trial, clearly_by(asked)) for trial in trials]
            for rows in _draws(able, count, draws):
                losses = _losses(given, rows, drawn.labels[rows], by)
                for one in found:
                    one.add(losses, count)
            tallies += [Tally(judges, one.trial.mistake, count, one.beaten, one.named, one.hinted) for one in found]
            progress("draw", step * len(counts) + place + 1, len(evidence) * len(counts))
    return PreprocessingFound(
        network=name,
        dataset=f"{dataset.name} {dataset.split}",
        right=f"{right.arithmetic}; {right.geometry}",
        photos=len(drawn.positions),
        draws=draws,
        counts=tuple(counts),
        tallies=tuple(tallies),
    )


@dataclass(frozen=True)
class _Trial:
    """A declaration, what it is tried against, and which of that is right."""

    mistake: str
    candidates: tuple[Preprocess, ...]
    right: Preprocess


class _Count:
    def __init__(self, trial: _Trial, clearly: float) -> None:
        self.trial, self.clearly = trial, clearly
        self.beaten = self.named = self.hinted = 0

    def add(self, losses: dict[Preprocess, Floats], count: int) -> None:
        """Count what one draw says."""
        answer, place = decide([losses[candidate] for candidate in self.trial.candidates], count, Need(self.clearly))
        best = self.trial.candidates[place]
        is_right = best.geometry == self.trial.right.geometry and not differ(
            best.arithmetic, self.trial.right.arithmetic
        )
        self.beaten += answer == "beaten"
        self.named += answer == "beaten" and is_right
        self.hinted += answer == "cannot tell" and is_right and place > 0


def _trials(right: Preprocess, drawn: Drawn) -> Iterator[_Trial]:
    for mistake, declared in ((RIGHT, right.arithmetic), *mistakes(right.arithmetic).items()):
        tried = [right.model_copy(update={"arithmetic": made}) for _, made in candidates(declared)]
        yield _Trial(mistake, tuple(tried), right)
    wrong = _other_geometry(right.geometry)
    few = drawn.positions[:20]
    if any((drawn.read(at, wrong) != drawn.read(at, right.geometry)).any() for at in few):
        for mistake, shape in (
            (f"{RIGHT} (geometry)", right.geometry),
            (f"{wrong.rule} for {right.geometry.rule}", wrong),
        ):
            tried = [right.model_copy(update={"geometry": made}) for _, made in geometries(shape)]
            if right not in tried:
                tried.append(right)
            yield _Trial(mistake, tuple(tried), right)


def _other_geometry(right: Geometry) -> Geometry:
    rule: Rule = "crop" if right.rule == "squash" else "squash"
    return replace(right, rule=rule, crop_share=1.0)


def _evidence(network: OnnxNetwork, match: ClassMatch | None) -> list[tuple[str, ClassMatch | None]]:
    found: list[tuple[str, ClassMatch | None]] = [] if match is None else [(MATCHED, match)]
    return found + ([] if network.classes is None else [(UNMATCHED, None)]) + [(HEADLESS, None)]


def _draws(able: Labels, count: int, draws: int) -> Iterator[Labels]:
    random = np.random.default_rng(count)
    for _ in range(draws):
        yield np.sort(random.choice(able, count, replace=False))


def _losses(
    seen: dict[Preprocess, Seen], rows: Labels, labels: Labels, match: ClassMatch | None
) -> dict[Preprocess, Floats]:
    return {candidate: surprise(one.of(rows), labels, match) for candidate, one in seen.items()}

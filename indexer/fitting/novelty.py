"""When an image is novel: which score tells unknown images best, and how little of it is too little.

Which one that is depends on the network and the images, so candidates are compared on the bundle's own: on the holdout
with one class after another left out of the cache and the logits, on synthetic images (``fitting.unknown``), and on
what the user says is unknown. The one is taken that loses least where it loses most: it is never far from the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.class_shape import ClassShape
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.model.answering.doubt import Scores, energies, novelty_scores, rmds_scores, weighed
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.manifest import Evidence, Novelty, NoveltyCandidate, Surplus
from secondlook.model.networks.engines import Encoding
from secondlook.model.scoring import auroc
from secondlook.model.stores.store import Neighbors

FALSE_ALARM_RATE = 0.01
"""Share of known images that may be called novel."""

DOUBTFUL_RATE = 0.05
"""Share of known images that may have so little evidence that they are doubtful, the novel ones among them."""

FEW = {FALSE_ALARM_RATE: 3.0, DOUBTFUL_RATE: 2.0}
"""Where the holdout has too few images for a rate, the limit is as many of its standard deviations below its mean."""

TENTH = 10
NEIGHBORS = {"nearest": 1, "tenth": TENTH}
"""Which entry's similarity a score is."""

SURPLUS, OF_SURPLUS = "surplus", ("energy", "rmds")

CANDIDATES: dict[str, dict[str, float]] = {
    "softmax": {"softmax": 1},
    "energy": {"energy": 1},
    "nearest": {"nearest": 1},
    "tenth": {"tenth": 1},
    "rmds": {"rmds": 1},
    "energy + rmds": {"energy": 1, "rmds": 1},
    "energy + nearest / 5": {"energy": 1, "nearest": 0.2},
    "energy + rmds / 2 + nearest / 4": {"energy": 1, "rmds": 0.5, "nearest": 0.25},
    "energy / 3 + rmds": {"energy": 1 / 3, "rmds": 1},
    "softmax + rmds": {"softmax": 1, "rmds": 1},
    "rmds + nearest": {"rmds": 1, "nearest": 1},
    "rmds + tenth": {"rmds": 1, "tenth": 1},
    "energy + nearest": {"energy": 1, "nearest": 1},
    "energy + tenth": {"energy": 1, "tenth": 1},
    "energy + rmds - surplus": {"energy": 1, "rmds": 1, "surplus": 1.5},
    "energy + nearest / 5 - surplus": {"energy": 1, "nearest": 0.2, "surplus": 1.5},
    "energy + rmds / 2 + nearest / 4 - surplus": {"energy": 1, "rmds": 0.5, "nearest": 0.25, "surplus": 1.5},
}
"""What is tried, each score in the holdout's standard deviations (docs/doubt.md has what they come to).

Of ``surplus``, energy beyond what RMDS bears out, so much is taken off.
"""

BORNE_OUT = 0.2
"""By so many of the holdout's standard deviations may energy lie higher above its mean than RMDS: no surplus yet."""

UNTRIED = "energy + rmds"
"""What is taken where there is nothing to compare on."""

LEFT_OUT = "a class left out"
CLASSES_LEFT_OUT, IMAGES_LEFT_OUT, ENTRIES_LEFT = 100, 2500, 4096
"""So many classes at most are left out, one after another, and so many images of the holdout asked of so many entries.
With 20 classes and 1,000 images, of a holdout with 100 classes, chance chose.
"""

FEWEST = 5
"""A class of fewer images is not left out."""

ROUNDING = 1e-9

SMALLEST = 1e-6
"""A standard deviation below it counts as this: the scores of images that are all alike."""


class Seen(NamedTuple):
    """Images, and what novelty is told from."""

    logits: Floats
    """(n,C) of the network; C is 0 where it has no head."""
    keys: Floats
    """(n,D)."""
    similarities: Floats
    """(n,m) of the nearest entries, descending; ten are enough."""


class FittedNovelty(NamedTuple):
    """What is needed to say whether an image is novel."""

    novelty: Novelty
    directions: Floats | None
    """(C,D+1) for RMDS; None where novelty does not go by it."""


Parts = Sequence[tuple[Ints, ClassShape]]
"""Rows of known images, and where the keys of each class lie without them: images of their own shape look too well."""


class _Case(NamedTuple):
    """Scores of known images and of some that are not."""

    known: Scores
    unknown: Scores


def tell_unknown(
    served: ServedCache,
    holdout: EmbeddedQueries,
    found: Neighbors,
    unknown: Mapping[str, Encoding],
    classes: int,
    parts: Parts | None = None,
) -> FittedNovelty:
    """Fit novelty to a cache as it is served, by a holdout whose nearest entries were found, and unknown images.

    ``classes`` is how many of the cache's the bundle has itself, the first ones: RMDS knows no others. ``parts`` are
    given where the holdout's images are among the entries.
    """
    shape = ClassShape.of(served.chunks(), served.count, classes)
    kinds = {
        name: Seen(of.logits, of.keys, nearest_entries(served, of.keys, min(TENTH, served.count)).similarities)
        for name, of in unknown.items()
    }
    return fit_novelty(Seen(holdout.logits, holdout.keys, found.similarities), holdout.labels, shape, kinds, parts)


def fit_novelty(
    known: Seen, labels: Ints, shape: ClassShape, unknown: Mapping[str, Seen], parts: Parts | None = None
) -> FittedNovelty:
    """Choose a candidate by images of the holdout with labels (n,) and kinds of unknown ones, and fit its limits."""
    parts = parts or [(np.arange(len(labels)), shape)]
    scores = _joined(len(labels), [(rows, scores_of(_part(known, rows), of.directions())) for rows, of in parts])
    cases = {
        name: [_Case(scores, scores_of(seen, shape.directions()))] for name, seen in unknown.items() if len(seen.keys)
    }
    if left_out := _without_a_class(known, labels, parts):
        cases[LEFT_OUT] = left_out
    candidates = [
        _candidate(name, weights, cases) for name, weights in CANDIDATES.items() if _needed(weights) <= scores.keys()
    ]
    best = {case: max(one.auroc[case] for one in candidates) for case in cases}
    candidates = [
        one.model_copy(update={"lost": round(max((best[c] - a for c, a in one.auroc.items()), default=0.0), 2)})
        for one in candidates
    ]
    if cases:
        chosen = min(candidates, key=lambda one: (one.lost, -sum(one.auroc.values())))
    else:
        chosen = next((one for one in candidates if one.score == UNTRIED), candidates[-1])
    novelty = _with_limits(chosen, known, scores).model_copy(
        update={
            "candidates": tuple(candidates),
            "blind_to": tuple(name for name, of in cases.items() if not _beats_chance(chosen.auroc[name], of)),
        }
    )
    return FittedNovelty(novelty, shape.directions() if novelty.evidence and novelty.evidence.goes_by_rmds else None)


def class_left_out(known: Seen, labels: Ints, shape: ClassShape) -> dict[str, float]:
    """AUROC % of each candidate where one class after another is left out; nothing where none can be."""
    cases = _without_a_class(known, labels, [(np.arange(len(labels)), shape)])
    if not cases:
        return {}
    scores = cases[0].known.keys()
    candidates = (
        _candidate(name, weights, {LEFT_OUT: cases})
        for name, weights in CANDIDATES.items()
        if _needed(weights) <= scores
    )
    return {one.score: one.auroc[LEFT_OUT] for one in candidates}


def _candidate(name: str, weights: dict[str, float], cases: Mapping[str, Sequence[_Case]]) -> NoveltyCandidate:
    found = {}
    for kind, of in cases.items():
        aurocs = []
        for case in of:
            known, strange = (told(weights, case.known, part) for part in case)
            aurocs.append(auroc(-known, -strange))
        found[kind] = round(100 * float(np.mean(aurocs)), 2)
    return NoveltyCandidate(score=name, weights=weights, auroc=found, lost=0.0)


def told(weights: Mapping[str, float], known: Scores, scores: Scores) -> NDArray[np.float64]:
    """What a candidate with such weights says for images' being known (n,), by their scores and those of known ones."""
    terms = _terms(weights, known)
    found = weighed(terms, scores, len(scores["nearest"]))
    return found + terms.similarity * scores[_neighbor(weights)] if terms.similarity else found


def _terms(weights: Mapping[str, float], known: Scores) -> Evidence:
    """A candidate's evidence, without its limits, by the scores of known images."""
    scales = {score: weight / _spread(known[score]) for score, weight in weights.items() if score != SURPLUS}
    kept = {"similarity" if score in NEIGHBORS else score: weight for score, weight in scales.items()}
    surplus = None
    if (taken := weights.get(SURPLUS)) is not None:
        energy, rmds = (taken / _spread(known[score]) for score in OF_SURPLUS)
        middle = energy * float(known["energy"].mean()) - rmds * float(known["rmds"].mean())
        surplus = Surplus(energy=energy, rmds=rmds, over=middle + taken * BORNE_OUT)
    return Evidence(**kept, surplus=surplus, limit=0.0)


def _neighbor(weights: Mapping[str, float]) -> str:
    """Which entry's similarity a candidate goes by; the nearest where by none."""
    return next((score for score in weights if score in NEIGHBORS), "nearest")


def _needed(weights: Mapping[str, float]) -> set[str]:
    """The scores that a candidate is made of."""
    return set(weights) - {SURPLUS} | (set(OF_SURPLUS) if SURPLUS in weights else set())


def _with_limits(chosen: NoveltyCandidate, known: Seen, scores: Scores) -> Novelty:
    neighbor = min(NEIGHBORS[_neighbor(chosen.weights)], known.similarities.shape[1])
    evidence = _limited(chosen.weights, scores)
    novelty = Novelty(
        neighbor=neighbor,
        threshold=0.5,
        false_alarm_rate=0.0,
        evidence=evidence,
        of_added=_limited({"nearest": 1}, scores),
        score=chosen.score,
    )
    own = weighed(evidence, scores, len(known.keys))
    found = novelty_scores(novelty, known.similarities[:, neighbor - 1], own)
    return novelty.model_copy(update={"false_alarm_rate": float((found > novelty.threshold).mean())})


def _limited(weights: Mapping[str, float], scores: Scores) -> Evidence:
    found = told(weights, scores, scores)
    limits = (_limit(found, rate, deviations) for rate, deviations in FEW.items())
    return _terms(weights, scores).model_copy(update=dict(zip(("limit", "doubtful"), limits, strict=True)))


def _limit(found: NDArray[np.float64], rate: float, deviations: float) -> float:
    """What at most that share of known images is below, of whose evidence (n,) is found."""
    limit = float(np.quantile(found, rate, method="lower"))
    if len(found) * rate < 1:
        # The least of few images is no rare one: of six, one in seven new ones is below it.
        limit = min(limit, float(found.mean() - deviations * found.std()))
    # The image at the limit is no alarm, in whatever order the scores are added.
    return limit - ROUNDING


def scores_of(seen: Seen, directions: Floats) -> Scores:
    """Each score of images (n,), higher for known ones."""
    most = seen.similarities.shape[1]
    # As far as the opposite key, where fewer entries were found.
    found: Scores = {
        name: np.maximum(seen.similarities[:, min(nth, most) - 1].astype(np.float64), -1.0)
        for name, nth in NEIGHBORS.items()
    }
    found["rmds"] = rmds_scores(seen.keys, directions).astype(np.float64)
    if seen.logits.shape[1]:
        network = softmax(seen.logits)
        found["softmax"] = network.max(axis=1).astype(np.float64)
        found["energy"] = energies(seen.logits, network).astype(np.float64)
    return found


def _part(seen: Seen, rows: Ints) -> Seen:
    return Seen(*(of[rows] for of in seen))


def _joined(count: int, parts: Sequence[tuple[Ints, Scores]]) -> Scores:
    """Scores (count,) of images, from those of some rows each."""
    found = {name: np.empty(count) for name in parts[0][1]}
    for rows, scores in parts:
        for name, of in scores.items():
            found[name][rows] = of
    return found


def _without_a_class(known: Seen, labels: Ints, parts: Parts) -> list[_Case]:
    """The holdout's images of a class as unknown ones, asked as if neither network nor cache had that class."""
    some = np.linspace(0, len(labels) - 1, min(len(labels), IMAGES_LEFT_OUT)).round().astype(np.int64)
    place = np.full(len(labels), -1)
    place[some] = np.arange(len(some))
    labels, known = labels[some], _part(known, some)
    counts = np.bincount(labels, minlength=len(parts[0][1].shares))
    enough = np.flatnonzero((counts >= FEWEST) & (counts < len(labels)))
    if (parts[0][1].shares > 0).sum() < 3 or not len(enough):
        return []
    chosen = enough[np.unique(np.linspace(0, len(enough) - 1, CLASSES_LEFT_OUT).round().astype(np.int64))]
    found: dict[int, list[tuple[Ints, Scores]]] = {}
    for rows, shape in parts:
        at = place[rows][place[rows] >= 0]
        if len(at):
            for label, scores in _scores_without(_part(known, at), shape, chosen.tolist()).items():
                found.setdefault(label, []).append((at, scores))
    cases = []
    for label, of in found.items():
        if sum(len(at) for at, _ in of) == len(labels):
            scores, is_left_out = _joined(len(labels), of), labels == label
            cases.append(
                _Case(
                    *({name: all_of[rows] for name, all_of in scores.items()} for rows in (~is_left_out, is_left_out))
                )
            )
    return cases


def _scores_without(known: Seen, shape: ClassShape, classes: Sequence[int]) -> dict[int, Scores]:
    """Scores of images (n,) as if neither network nor cache had a class, for each of some."""
    logits, keys = known.logits, known.keys
    step = -(-len(shape.values) // ENTRIES_LEFT)
    similar, values = keys @ shape.keys[::step].T, shape.values[::step]
    most = min(TENTH, len(values))
    places = np.argpartition(similar, len(values) - most, axis=1)[:, -most:]
    nearest = -np.sort(-np.take_along_axis(similar, places, axis=1), axis=1)
    found = {}
    for label in classes:
        is_other = values != label
        if not is_other.any():
            continue
        listed = min(TENTH, int(is_other.sum()))
        near = nearest[:, :listed].copy()
        # Only for those that have entries of the class among their nearest does leaving it out change anything.
        rows = np.flatnonzero((values[places] == label).any(axis=1))
        others = similar[rows][:, is_other]
        near[rows] = -np.sort(-np.partition(others, others.shape[1] - listed, axis=1)[:, -listed:], axis=1)
        left = logits
        if label < logits.shape[1] > 1:
            left = np.delete(logits, label, axis=1)
        found[label] = scores_of(Seen(left, keys, near), shape.directions(without=label))
    return found


def _beats_chance(percent: float, cases: Sequence[_Case]) -> bool:
    """Whether an AUROC is above a half by more than two of its standard errors (Hanley and McNeil, 1982)."""
    area = percent / 100
    known, strange = len(cases[0].known["nearest"]), sum(len(case.unknown["nearest"]) for case in cases)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (strange - 1) * (first - area**2) + (known - 1) * (second - area**2)
    return area - 2 * math.sqrt(max(spread, 0.0) / (known * strange)) > 0.5


def _spread(scores: NDArray[np.float64]) -> float:
    """The standard deviation that a candidate's weights are in."""
    return max(float(scores.std()), SMALLEST)

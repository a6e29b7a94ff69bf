"""How much to trust an answer: is the image known at all, which labels are possible, do the neighbours bear it out.

Each is held to the holdout, images whose answers are known and that neither the network nor their neighbours learned.

*Novelty.* What speaks for an image's being known are scores: how sure the network is (the largest probability of its
softmax), its energy (Liu et al., 2020, 'Energy-based out-of-distribution detection'), which the softmax divides away,
how near the nearest entry is (Sun et al., 2022, 'Out-of-distribution detection with deep nearest neighbors'), and RMDS
(Ren et al., 2021, 'A simple fix to Mahalanobis distance'): by how much nearer the key is to the nearest class than to
all, in a covariance that all classes share. With one covariance the squares of the key cancel, and RMDS is linear in
it::

    rmds = max_c (d(q, mean of all) - d(q, mean of c)) = max_c (w_c . q + b_c),   d(q, m) = (q - m)' S^-1 (q - m)

A sum of them can't tell all unknown images. Some, noise above all, have more energy than known ones, and what a key's
place says against them is lost in the sum. Known images that have much energy have much RMDS too; so what energy is
beyond that, the *surplus*, speaks against an image, and less energy than that says nothing. Which scores are weighed,
and how, was chosen on the bundle's own images (``indexer.fitting.novelty``)::

    evidence = a softmax + b energy + c rmds + d similarity - max(0, e energy - f rmds - over)
    score    = 1 / (1 + exp(evidence - limit))

with the holdout's standard deviations in the weights, and a limit that few of its images fall below. With b = e / 1.5,
as it is chosen, the terms of energy and surplus are the lesser of two: b energy, and f rmds + over - b energy / 2.

*Prediction sets* (split conformal; Vovk et al., 2005; the 'LAC' of Sadinle et al., 2019). All labels whose 1 - p(y|x)
is at most the r-th smallest of the same number for the true labels of n holdout images. For images like those the true
label is then in the set with the probability asked for, whatever the network is like. The r = ceil((n + 1) coverage)
gives that on average over holdouts; there is one, so r is a little higher, such that it holds for nine holdouts of ten
(Vovk, 2012, 'Conditional validity of inductive conformal predictors')::

    r = the smallest with P(Binomial(n, coverage) < r) >= 0.9

*Credibility* (deep k-nearest neighbours; Papernot and McDaniel, 2018). The conformal p-value of the answer by its
neighbours' labels: among how many holdout images the true label had no greater share of the vote.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import ParameterError
from secondlook.model.manifest import Calibration, Evidence, Novelty, Ranked, Standing

Real = NDArray[np.float32] | NDArray[np.float64]
Scores = dict[str, NDArray[np.float64]]
"""Scores (n,) by their names, higher for known images."""

COVERAGES = (0.5, 0.999)
"""Least and greatest coverage of a prediction set."""

CONFIDENCE = 0.9
"""Share of the holdouts that might have been drawn for which sets hold what they promise."""

STANDINGS: tuple[Standing, ...] = ("known", "doubtful", "unknown")

SET_COVERAGE = 0.95
"""Coverage of the set that standing goes by."""

DOUBTFUL_CREDIBILITY = 0.05
"""An answer of no more than it is doubtful."""

DIGITS = 8
"""Decimals kept of a score, rounded up: on the safe side."""

_LEVELS = np.concatenate((np.arange(1, 190) / 200, np.arange(950, 990) / 1000, np.arange(1980, 2001) / 2000))
"""Shares of the holdout whose scores are kept: every half of a per cent, and closer from 95 % and from 99 % on."""


def energies(logits: Floats, network: Floats) -> Floats:
    """Log sum exp of logits (B,C), from p_net, their softmax: (B,)."""
    found: Floats = logits.max(axis=1) - np.log(network.max(axis=1))
    return found


def rmds_scores(keys: Floats, directions: Floats) -> Floats:
    """RMDS (B,) of keys (B,D), by w_c and b_c of each class in the rows of directions (C,D+1)."""
    found: Floats = (keys @ directions[:, :-1].T + directions[:, -1]).max(axis=1)
    return found


def own_evidence(
    novelty: Novelty | None, logits: Floats, network: Floats, keys: Floats, directions: Floats | None = None
) -> NDArray[np.float64]:
    """What speaks for images' being known but their neighbours: (B,), by logits, p_net and keys (B,...).

    ``directions`` are RMDS's (C,D+1), where novelty goes by it.
    """
    evidence = novelty.evidence if novelty is not None else None
    if evidence is None:
        return np.zeros(len(keys))
    scores: Scores = {}
    if evidence.softmax:
        scores["softmax"] = network.max(axis=1).astype(np.float64)
    if evidence.energy or evidence.surplus:
        scores["energy"] = energies(logits, network).astype(np.float64)
    if evidence.goes_by_rmds:
        assert directions is not None
        scores["rmds"] = rmds_scores(keys, directions).astype(np.float64)
    return weighed(evidence, scores, len(keys))


def weighed(evidence: Evidence, scores: Scores, count: int) -> NDArray[np.float64]:
    """What scores (count,) say but those of neighbours: of softmax, energy and rmds, those that evidence goes by."""
    found = np.zeros(count)
    for name, weight in (("softmax", evidence.softmax), ("energy", evidence.energy), ("rmds", evidence.rmds)):
        if weight:
            found += weight * scores[name]
    if (surplus := evidence.surplus) is not None:
        found -= np.maximum(0.0, surplus.energy * scores["energy"] - surplus.rmds * scores["rmds"] - surplus.over)
    return found


def novelty_scores(
    novelty: Novelty | None, similarities: Real, own: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The score of images (B,) by the similarity of their ``novelty.neighbor``-th entry and their ``own_evidence``.

    Between 0 and 1 with evidence, else between 0 and 2.
    """
    evidence = novelty.evidence if novelty is not None else None
    if evidence is None:
        # At most 2, that of the opposite key, where fewer entries were found than it counts on.
        return np.clip(1.0 - similarities.astype(np.float64), 0.0, 2.0)
    return evidence_scores(evidence, similarities, own)


def evidence_scores(
    evidence: Evidence, similarities: Real, own: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The score of images (B,) by an entry's similarity and what else speaks for their being known, if anything."""
    found = evidence.similarity * np.maximum(similarities.astype(np.float64), -1.0) + (0.0 if own is None else own)
    scores: NDArray[np.float64] = 1.0 / (1.0 + np.exp(np.minimum(found - evidence.limit, 500.0)))  # no overflow
    return scores


def doubtful_above(evidence: Evidence | None) -> float:
    """The score above which an image is doubtful; inf without such a limit, in bundles from before it."""
    if evidence is None or evidence.doubtful is None:
        return math.inf
    return 1.0 / (1.0 + math.exp(min(evidence.doubtful - evidence.limit, 500.0)))


def standing(
    is_novel: bool | None, is_unusual: bool | None, credibility: float | None, labels: int | None
) -> Standing | None:
    """How far to trust an answer; None where nothing was calibrated. A figure that is None is left out.

    Unknown: the image is novel, as few of the known ones are. Doubtful: it is nearly so (``is_unusual``), or its
    neighbours hardly bear the label out, or the set of ``SET_COVERAGE`` has other than one label.
    """
    if is_novel is None and credibility is None and labels is None:
        return None
    if is_novel:
        return "unknown"
    is_borne_out = credibility is None or credibility > DOUBTFUL_CREDIBILITY
    return "known" if is_borne_out and not is_unusual and labels in (None, 1) else "doubtful"


def standings_of(
    calibration: Calibration, scores: NDArray[np.float64], mixed: Floats, cache: Floats
) -> list[Standing | None]:
    """How far to trust answers, by their novelty scores (n,), p(y|x) and p_cache (n,C)."""
    novelty, sets, credibility = calibration.novelty, calibration.sets, calibration.credibility
    highest = None
    if sets is not None and sets.images >= fewest_images(SET_COVERAGE):
        highest = highest_score(sets, SET_COVERAGE)
    limit, said = doubtful_above(novelty.evidence), mixed.argmax(axis=1)
    found = []
    for row, score in enumerate(scores.tolist()):
        labels = None if highest is None else int((1.0 - mixed[row].astype(np.float64) <= highest).sum())
        own = None if credibility is None else p_value(credibility, 1.0 - float(cache[row, said[row]]))
        found.append(standing(score > novelty.threshold, score > limit, own, labels))
    return found


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that no set is given for.

    Raises:
        ParameterError: it is outside ``COVERAGES``.
    """
    least, most = COVERAGES
    if not least <= coverage <= most:
        raise ParameterError(f"coverage must be between {least} and {most}, not {coverage}")


def ranked(scores: NDArray[np.float64]) -> Ranked:
    """Scores (n,) of the holdout's true labels, n >= 1, as they are kept."""
    count = len(scores)
    rising = np.ceil(np.sort(scores) * 10.0**DIGITS) / 10.0**DIGITS
    ranks = np.unique(np.clip(np.ceil(np.round(_LEVELS * (count + 1), 6)).astype(np.int64), 1, count))
    # Of equal scores the last: it answers for all of them.
    ranks = np.unique(np.searchsorted(rising, rising[ranks - 1], side="right"))
    return Ranked(images=count, ranks=tuple(ranks.tolist()), scores=tuple(rising[ranks - 1].tolist()))


@lru_cache(256)
def rank_for(images: int, coverage: float) -> int:
    """Which of so many scores, the smallest being the first, limits the sets of a coverage; images + 1 = none does."""
    logs = np.concatenate(([0.0], np.log(np.arange(1, images + 1)).cumsum()))
    below = np.arange(images + 1)
    chances = logs[-1] - logs - logs[::-1] + below * math.log(coverage) + below[::-1] * math.log1p(-coverage)
    return int(np.searchsorted(np.exp(chances).cumsum(), CONFIDENCE)) + 1


def fewest_images(coverage: float) -> int:
    """The fewest images of a holdout on which sets of a coverage can be promised: with fewer they hold all labels."""
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(coverage))


def highest_score(known: Ranked, coverage: float) -> float:
    """The greatest score with which a label belongs to the set; inf where too few images are known to leave any out."""
    at = bisect_left(known.ranks, rank_for(known.images, coverage))
    return known.scores[at] if at < len(known.scores) else math.inf


def prediction_set(known: Ranked, mixed: Floats, coverage: float) -> list[int]:
    """Classes of a probable set, the most probable first; none where no class is probable enough. mixed is (C,)."""
    highest = highest_score(known, coverage)
    inside = np.flatnonzero(1.0 - mixed.astype(np.float64) <= highest)
    return [int(label) for label in inside[(-mixed[inside]).argsort(kind="stable")]]


def p_value(known: Ranked, score: float) -> float:
    """Share of images, the one asked for among them, with at least that score; where ranks are left out, no less."""
    at = bisect_left(known.scores, score)
    below = known.ranks[at - 1] if at else 0
    return (known.images + 1 - below) / (known.images + 1)

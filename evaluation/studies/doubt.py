"""Whether a bundle's doubt is worth anything: does it know what it does not know, do its sets hold what they promise.

Everything is asked of the answers as they are served; what was calibrated was calibrated on the holdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secondlook.evaluation.evaluate import QUERIES_AT_ONCE, need_network, sample, unseen
from secondlook.evaluation.statistics.conformal import METHODS, TABLED, Sets, compared, served
from secondlook.evaluation.statistics.detection import Detection, Scores, detect
from secondlook.evaluation.studies.doubt_plots import BINS, DRAWN, draw_novelty, draw_roc, draw_sets
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.fitting.class_shape import ClassShape
from secondlook.indexer.fitting.novelty import CANDIDATES, Seen, class_left_out, scores_of, told
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Figure, Table
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.doubt import (
    STANDINGS,
    novelty_scores,
    own_evidence,
    p_value,
    standings_of,
)
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.errors import BundleError
from secondlook.model.manifest import Calibration, Standing

SUMS = [name for name, weights in CANDIDATES.items() if len(weights) > 1]
SCORES = {
    "network": "network's probability (softmax)",
    "energy": "network's energy",
    "novelty": "novelty, as served",
    "nearest": "nearest entry's similarity",
    "tenth": "10th entry's similarity",
    "rmds": "RMDS",
    **{name: name for name in SUMS},
    "mixed": "mixture's probability",
    "credibility": "credibility",
    "disagree": "neighbours that agree",
}
"""What is compared, the reference first, each with its sign such that higher means more doubt."""

REFERENCE = "network"
LEVELS = (0.01, 0.05, 0.1)
TENTH, NEIGHBORS = 10, 200
"""Where all entries vote, the labels of the nearest 200 are counted."""

ERRORS = "own errors"
"""The images that the mixture gets wrong, told from those that it gets right."""


@dataclass(frozen=True)
class Unknown:
    """How well images are told from known ones."""

    name: str
    images: int
    known: int
    scores: dict[str, Detection]
    novel: float
    """Percent of the images that are called novel."""


@dataclass(frozen=True)
class Doubt:
    """What ``doubt`` measured."""

    generation: str
    dataset: str
    images: int
    calibrated_on: int
    """Images of the holdout."""
    score: str
    """The candidate that novelty goes by; nothing in older bundles."""
    threshold: float
    false_alarms: float
    """Percent of the known images that are called novel."""
    unknown: tuple[Unknown, ...]
    """Each kind of unknown images; the mixture's own errors last."""
    sets: tuple[Sets, ...]
    methods: tuple[Sets, ...]
    """Other ways to make sets, calibrated on these images' other half."""
    true_labels: dict[float, float]
    """Share of images whose right label has a credibility of at most so much."""
    standings: dict[str, dict[Standing, float]]
    """Percent of each kind of images, the known ones first, that are of each standing."""
    left_out: dict[str, float]
    """AUROC % of each candidate where a class is unknown, as its images are and all entries of it are left out: the
    mean over the classes."""
    histograms: dict[str, tuple[float, ...]]
    """Share of each kind of images by novelty, in bins of equal width from 0 to the highest of them."""
    highest: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "unknown": [
                asdict(one) | {"scores": {name: _plain(found) for name, found in one.scores.items()}}
                for one in self.unknown
            ],
            "sets": [asdict(one) | {"got": one.got._asdict()} for one in self.sets],
            "methods": [asdict(one) | {"got": one.got._asdict()} for one in self.methods],
            "true_labels": {f"{level:g}": share for level, share in self.true_labels.items()},
        }

    def tables(self) -> list[Table]:
        """What is told from known images, a table each; the sets; how they could be made; the credibility."""
        seen = f"{self.dataset}, {self.images:,} images, generation {self.generation}"
        found = [self._table(one) for one in self.unknown]
        found.append(self._standings(seen))
        if self.left_out:
            found.append(
                Table(
                    f"one class after another left out of network and cache, its images told from the others: {seen}",
                    ("by", "AUROC %"),
                    tuple((name, f"{auroc:.2f}") for name, auroc in self.left_out.items()),
                    f"novelty goes by {self.score or 'a score from before there were candidates'}",
                )
            )
        found.append(
            Table(
                f"labels in a set, by how often it is to hold the right one: {seen}",
                ("asked %", "held it %", "labels on average", "none %", "one %"),
                tuple(
                    (
                        f"{100 * s.asked:g}",
                        _percent(s),
                        f"{s.size:.3f}",
                        f"{100 * s.empty:.2f}",
                        f"{100 * s.single:.2f}",
                    )
                    for s in self.sets
                ),
                f"as served, calibrated on {self.calibrated_on:,} images of the holdout; in brackets 95 % intervals",
            )
        )
        found.append(
            Table(
                "ways to make sets, each half of these images calibrated on the other",
                ("", "asked %", "held it %", "labels on average", "none %"),
                tuple(
                    (s.method, f"{100 * s.asked:g}", _percent(s), f"{s.size:.3f}", f"{100 * s.empty:.2f}")
                    for s in self.methods
                ),
                "; ".join(METHODS.values()),
            )
        )
        found.append(
            Table(
                "credibility of the right labels: a p-value of at most x % is to happen in x %",
                ("at most %", "of the images %"),
                tuple((f"{100 * level:g}", f"{100 * share:.2f}") for level, share in self.true_labels.items()),
            )
        )
        return found

    def _standings(self, seen: str) -> Table:
        return Table(
            f"standing: {seen}",
            ("", *(f"{kind} %" for kind in STANDINGS)),
            tuple((name, *(f"{of[kind]:.2f}" for kind in STANDINGS)) for name, of in self.standings.items()),
        )

    def _table(self, one: Unknown) -> Table:
        rows = [
            (
                label,
                one.scores[name].auroc.text(),
                one.scores[name].passed.text(1),
                f"{one.scores[name].found:.1f}",
                better.text() if (better := one.scores[name].better) else "",
            )
            for name, label in SCORES.items()
        ]
        about = (
            f"the mixture's {one.images:,} errors, told from its {one.known:,} right answers"
            if one.name == ERRORS
            else f"{one.name}, {one.images:,} images, told from {self.dataset}, {one.known:,}"
        )
        novel = f"called novel: {one.novel:.1f} % of these, {self.false_alarms:.2f} % of {self.dataset}"
        told = "passed: as known where 95 % of the known do; found: as unknown where 1 % of the known are"
        return Table(
            about,
            ("by", "AUROC %", "passed %", "found %", "AUROC, points above the first"),
            tuple(rows),
            f"{told}; in brackets 95 % bootstrap intervals over the images; {novel}",
        )

    def figures(self) -> list[Figure]:
        """ROC curves, novelty, and the sets."""
        others = [one for one in self.unknown if one.name != ERRORS]
        found = []
        if others:
            gained = "; ".join(
                f"{one.name} {one.scores[REFERENCE].auroc.value:.1f} → {one.scores['novelty'].auroc.value:.1f}"
                for one in others
            )
            found = [
                Figure(
                    "doubt-roc",
                    f"Unknown images told from known ones, AUROC % of the network's probability → novelty:\n{gained}",
                    draw_roc({one.name: {name: one.scores[name].roc for name in DRAWN} for one in others}, SCORES),
                    f"ROC curves, a panel for each kind of unknown images. AUROC in percent: {gained}.",
                    (3.6 * max(2, len(others)), 4.4),
                ),
                Figure(
                    "doubt-novelty",
                    f"Novelty: {self.false_alarms:.1f} % of the known images are above the threshold, and of\n"
                    + ", ".join(f"{one.name} {one.novel:.1f} %" for one in others),
                    draw_novelty(self.histograms, self.threshold, self.highest),
                    "Shares of known and unknown images by novelty, with the threshold above which they are novel.",
                ),
            ]
        shown = ", ".join(f"{100 * s.asked:g} → {100 * s.got.value:.1f}" for s in self.sets if s.asked in TABLED)
        found.append(
            Figure(
                "doubt-sets",
                f"How often sets hold the right label, % asked → got: {shown}",
                draw_sets(self.sets),
                "Coverage got against coverage asked, on the line on which they are equal; labels in a set against it.",
                (9.0, 4.2),
            )
        )
        return found


def doubt(
    bundle: Bundle,
    dataset: Dataset,
    unknown: Sequence[Dataset] = (),
    *,
    images: int | None = None,
    progress: Progress = silent,
) -> Doubt:
    """Ask a bundle how far to trust its answers, on a dataset that it knows and others that it does not.

    Raises:
        BundleError: the bundle has no calibration of sets and credibility, or its network no head.
        DatasetError: the dataset's classes are not the bundle's, the bundle caches it, or images are unreadable.
    """
    manifest = bundle.manifest
    need_network(manifest, "doubt")
    dataset = unseen(dataset, manifest)
    calibration = manifest.calibration
    if calibration is None or calibration.sets is None or calibration.credibility is None:
        raise BundleError(
            f"bundle {manifest.generation} has no calibration of its doubt: secondlook fit --calibrate makes one"
        )
    shape = ClassShape.of(bundle.store.chunks(), bundle.store.count, len(manifest.classes))
    asked = embed_queries(dataset, sample(dataset, images), bundle, progress)
    keys, labels = asked.keys, asked.labels
    known, parts, mixed, cache = _scores(bundle, calibration, shape, asked.logits, keys)
    known |= _sums(parts, parts)
    left_out = class_left_out(Seen(asked.logits, keys, np.empty((len(keys), 0), np.float32)), labels, shape)
    standings = {dataset.name: _shares(calibration, known["novelty"], mixed, cache)}
    kinds: list[Unknown] = []
    novelties = {dataset.name: known["novelty"]}
    threshold = calibration.novelty.threshold
    for other in unknown:
        asked = embed_queries(other, sample(other, images), bundle, progress)
        scores, others, *votes = _scores(bundle, calibration, shape, asked.logits, asked.keys)
        scores |= _sums(parts, others)
        novelties[other.name] = scores["novelty"]
        standings[other.name] = _shares(calibration, scores["novelty"], *votes)
        kinds.append(_unknown(other.name, known, scores, threshold))
        progress("compare", len(kinds), len(unknown) + 1)
    wrong = mixed.argmax(axis=1) != labels
    if 0 < wrong.sum() < len(wrong):
        right, errors = ({name: of[part] for name, of in known.items()} for part in (~wrong, wrong))
        kinds.append(_unknown(ERRORS, right, errors, threshold))
    highest = max(float(of.max()) for of in novelties.values())
    own = 1.0 - cache[np.arange(len(labels)), labels].astype(np.float64)
    p_values = np.array([p_value(calibration.credibility, score) for score in own])
    return Doubt(
        generation=manifest.generation,
        dataset=f"{dataset.name} {dataset.split}",
        images=len(labels),
        calibrated_on=calibration.sets.images,
        score=calibration.novelty.score,
        threshold=threshold,
        false_alarms=100 * float((known["novelty"] > threshold).mean()),
        unknown=tuple(kinds),
        sets=tuple(served(calibration.sets, mixed, labels)),
        methods=tuple(compared(mixed, labels, TABLED)) if len(labels) > 1 else (),
        true_labels={level: float((p_values <= level).mean()) for level in LEVELS},
        standings=standings,
        left_out=left_out,
        histograms={
            name: tuple((np.histogram(of, BINS, (0, highest))[0] / len(of)).tolist()) for name, of in novelties.items()
        },
        highest=highest,
    )


def _unknown(name: str, known: dict[str, Scores], scores: dict[str, Scores], threshold: float) -> Unknown:
    novel = 100 * float((scores["novelty"] > threshold).mean())
    found = detect(known, scores, REFERENCE)
    return Unknown(name, len(scores[REFERENCE]), len(known[REFERENCE]), found, novel)


def _sums(known: dict[str, Scores], scores: dict[str, Scores]) -> dict[str, Scores]:
    """The candidates that are sums, higher for unknown images, by the scores of known ones and of images."""
    return {name: -told(CANDIDATES[name], known, scores) for name in SUMS}


def _shares(calibration: Calibration, scores: Scores, mixed: Floats, cache: Floats) -> dict[Standing, float]:
    found = standings_of(calibration, scores, mixed, cache)
    return {kind: 100 * found.count(kind) / len(found) for kind in STANDINGS}


def _scores(
    bundle: Bundle, calibration: Calibration, shape: ClassShape, logits: Floats, keys: Floats
) -> tuple[dict[str, Scores], dict[str, Scores], Floats, Floats]:
    """All scores (n,) of images, what candidates are made of, and their p(y|x) and p_cache as served (n,C)."""
    manifest, store = bundle.manifest, bundle.store
    novelty, credibility = calibration.novelty, calibration.credibility
    assert credibility is not None
    network, served = softmax(logits, len(manifest.classes)), ServedCache.of_overlay(Overlay(bundle))
    own = Parameters(manifest.theta, manifest.lam, manifest.k)
    own_part = own_evidence(novelty, logits, network, keys, bundle.directions)
    cache = np.empty_like(network)
    nth = min(novelty.neighbor, store.count) - 1
    listed = min(max(manifest.k or NEIGHBORS, TENTH, nth + 1), store.count)
    similarities = np.empty((len(keys), listed), np.float32)
    values: Ints = np.empty((len(keys), listed), np.int64)
    nearest = np.empty(len(keys), np.float32)
    for start in range(0, len(keys), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        found = store.search(keys[rows], listed)
        similarities[rows], values[rows] = found.similarities, found.values
        asked, cache[rows] = served.search_and_vote(keys[rows], network[rows], own, novelty, own_part[rows])
        if manifest.k is not None:
            found = asked
        nearest[rows] = found.similarities[:, nth]
    mixed = mix(network, cache, manifest.lam, manifest.new_classes(network.shape[1]))
    said = mixed.argmax(axis=1)
    shares = 1.0 - cache[np.arange(len(said)), said].astype(np.float64)
    counted = manifest.k or NEIGHBORS
    parts = scores_of(Seen(logits, keys, similarities), shape.directions())
    return (
        {
            "network": 1.0 - network.max(axis=1).astype(np.float64),
            **{name: -parts[name] for name in ("energy", "rmds", "nearest", "tenth")},
            "novelty": novelty_scores(novelty, nearest, own_part),
            "mixed": 1.0 - mixed.max(axis=1).astype(np.float64),
            "credibility": np.array([1.0 - p_value(credibility, share) for share in shares]),
            "disagree": (values[:, :counted] != said[:, None]).sum(axis=1).astype(np.float64),
        },
        parts,
        mixed,
        cache,
    )


def _plain(found: Detection) -> dict[str, Any]:
    return {
        "auroc": found.auroc._asdict(),
        "passed": found.passed._asdict(),
        "found": found.found,
        "better": found.better._asdict() if found.better else None,
        "roc": found.roc,
    }


def _percent(sets: Sets) -> str:
    got = sets.got
    return f"{100 * got.value:.2f} ({100 * got.low:.2f} to {100 * got.high:.2f})"

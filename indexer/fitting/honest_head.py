"""A linear head for new entries, and what it says of images that it was not fitted on.

By those theta, lam and k are fitted. They are a holdout that was given, or, of few photos, all of them, by
cross-validation; of many, the dataset's tenth, which the head is then fitted without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.cache import VotingEntries
from secondlook.indexer.fitting.cross_validation import Choice, choose_strength, fit_linear_head, folds_of, out_of_fold
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout
from secondlook.indexer.fitting.linear_head import LinearOpinion
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats, Ints
from secondlook.model.manifest import HoldoutInfo

CROSSED = 5000
"""Pictures up to which all are asked by cross-validation: a tenth of more is enough, and its search is its own test."""


class HonestHead(NamedTuple):
    """A head, and with its logits what is fitted on."""

    opinion: LinearOpinion
    entries: VotingEntries
    chosen: ChosenHoldout


def fit_honest_head(
    title: str,
    keys: Floats,
    values: Ints,
    classes: int,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    *,
    is_exhaustive: bool,
    progress: Progress = silent,
) -> HonestHead:
    """Fit a head of C classes on entries with keys (N,D) and values (N,), and ask it honestly.

    ``chosen`` is what the headless encoder's parameters would be fitted on; ``title`` names the dataset;
    ``is_exhaustive`` says that the store looks at every entry.
    """
    tenth, held = entries.tenth, entries.held
    pictures, first = np.unique(entries.pictures, return_index=True)
    is_given = chosen.holdout is not None and not len(chosen.holdout.own)
    is_crossed = not is_given and chosen.trained != "yes" and len(pictures) <= CROSSED and is_exhaustive
    less_tenth = not is_given and not is_crossed and chosen.holdout is not None and not held.all()
    rows = np.flatnonzero(~held) if less_tenth else np.arange(len(values))
    seen = keys[rows] if less_tenth else keys
    choice = choose_strength(seen, values[rows], entries.pictures[rows], classes, progress)
    opinion = fit_linear_head(seen, values[rows], classes, choice, progress, less_tenth=less_tenth)
    if not is_crossed:
        asked = None if chosen.holdout is None else _said(chosen.holdout, opinion)
        return HonestHead(opinion, replace(entries, tenth=_said(tenth, opinion)), replace(chosen, holdout=asked))
    return _crossed(title, keys, values, classes, entries, chosen, opinion, choice, np.sort(first), progress)


def _crossed(
    title: str,
    keys: Floats,
    values: Ints,
    classes: int,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    opinion: LinearOpinion,
    choice: Choice,
    first: Ints,
    progress: Progress,
) -> HonestHead:
    folds = folds_of(values, entries.pictures)
    logits = out_of_fold(keys, values, classes, folds, choice.strength, progress)
    # A class's only picture tells nothing of new ones: neither head nor cache has another one to know it by.
    counts = np.bincount(values[first], minlength=classes)
    asked = first[counts[values[first]] > 1]
    tenth = replace(entries.tenth, logits=logits[entries.tenth.own] if len(entries.tenth.labels) else _nothing(classes))
    holdout = EmbeddedQueries(logits[asked], entries.made(asked), values[asked], own=asked)
    info = HoldoutInfo(
        name=f"cross-validation of {title}",
        images=len(asked),
        honest=True,
        why="the head that was asked of each was fitted without it, and no copy of it voted",
    )
    return HonestHead(
        opinion, replace(entries, tenth=tenth), ChosenHoldout(info, chosen.trained, holdout, folds[asked])
    )


def _said(queries: EmbeddedQueries, opinion: LinearOpinion) -> EmbeddedQueries:
    return replace(queries, logits=opinion.head.logits(queries.keys))


def _nothing(classes: int) -> Floats:
    return np.empty((0, classes), np.float32)

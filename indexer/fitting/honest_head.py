"""A linear head for new entries, and what it says of images that it was not fitted on.

By those theta, lam and k are fitted. They are a holdout that was given, or, of few photos, all of them, by
cross-validation; of many, the dataset's tenth, which the head is then fitted without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from secondlook.indexer.embedding.linear_heads import need_linear_head
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.cache import VotingEntries
from secondlook.indexer.fitting.cross_validation import choose_strength, fit_linear_head, folds_of, out_of_fold
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout
from secondlook.indexer.fitting.linear_head import LinearOpinion
from secondlook.indexer.progress import Progress, silent
from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats, Ints
from secondlook.model.manifest import HoldoutInfo, LinearHead
from secondlook.model.stores.added_keys import number_of

CROSSED = 5000
"""Pictures up to which all are asked by cross-validation: a tenth of more is enough, and its search is its own test."""


FEWEST = 2
"""Pictures of a class from which on a head is fitted to it: of fewer, the cache alone tells more (docs/decisions/021).
"""


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
    known: int | None = None,
    progress: Progress = silent,
) -> HonestHead:
    """Fit a head of C classes on entries with keys (N,D) and values (N,), and ask it honestly.

    ``chosen`` is what the headless encoder's parameters would be fitted on; ``title`` names the dataset;
    ``is_exhaustive`` says that the store looks at every entry, ``known`` how many of the classes were not added.
    """
    tenth, held = entries.tenth, entries.held
    pictures, first = np.unique(entries.pictures, return_index=True)
    few = few_classes(values[first], classes)
    is_given = chosen.holdout is not None and not len(chosen.holdout.own)
    is_crossed = not is_given and chosen.trained != "yes" and len(pictures) <= CROSSED and is_exhaustive
    less_tenth = not is_given and not is_crossed and chosen.holdout is not None and not held.all()
    rows = np.flatnonzero(~np.isin(values, few) & ~(held & less_tenth))
    seen = entries.pictures[rows]
    choice = choose_strength(keys, values[rows], seen, classes, progress, rows=rows, known=known)
    opinion = fit_linear_head(
        keys, values[rows], classes, choice, progress, rows=rows, known=known, less_tenth=less_tenth
    )
    opinion = replace(opinion, info=opinion.info.model_copy(update={"few": few}))
    if not is_crossed:
        asked = None if chosen.holdout is None else _said(chosen.holdout, opinion)
        return HonestHead(opinion, replace(entries, tenth=_said(tenth, opinion)), replace(chosen, holdout=asked))
    first = np.sort(first)
    return HonestHead(
        opinion, *_crossed(title, keys, values, classes, entries, chosen, opinion.info, first, progress, known)
    )


def few_classes(labels: Ints, classes: int) -> tuple[int, ...]:
    """The classes that a head is not fitted to, by the labels (n,) of different pictures of C classes.

    They are those of fewer pictures than ``FEWEST``, beside at least two others that most pictures are of: where all
    classes have few, none is drowned by another.
    """
    counts = np.bincount(labels, minlength=classes)
    is_few = (counts > 0) & (counts < FEWEST)
    if (counts >= FEWEST).sum() < 2 or 2 * counts[is_few].sum() >= len(labels):
        return ()
    return tuple(np.flatnonzero(is_few).tolist())


def ask_head_again(
    title: str,
    overlay: Overlay,
    info: LinearHead,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    progress: Progress = silent,
) -> tuple[VotingEntries, ChosenHoldout]:
    """What a bundle with a linear head is fitted on anew where no holdout is given, and that head's honest answers.

    Either the tenth that it was fitted without, or all its own entries by cross-validation of heads of that strength.
    What was added since votes, and no head is asked of it.

    Raises:
        EngineError: scikit-learn is not installed. DatasetError: too few images are left.
    """
    if info.less_tenth:
        if not len(entries.tenth.labels):
            return entries, chosen
        why = "the linear head was fitted without them"
        kept = HoldoutInfo(name=chosen.info.name, images=len(entries.tenth.labels), honest=True, why=why)
        return entries, ChosenHoldout(kept, chosen.trained, entries.tenth)
    store, classes = overlay.store, overlay.bundle.engine.classes
    is_own = np.array([number_of(entry) is None for entry in overlay.ids.tolist()], bool) & (store.values < classes)
    need_linear_head(store.values[is_own])
    rows = np.flatnonzero(is_own)
    keys = np.concatenate([part for part, _ in store.chunks()])[rows]
    place = np.full(len(is_own), -1)
    place[rows] = np.arange(len(rows))
    pictures = entries.pictures[rows]
    tenth = entries.tenth.part(place[entries.tenth.own] >= 0) if len(entries.tenth.labels) else entries.tenth
    part = replace(
        entries,
        pictures=pictures,
        tenth=replace(tenth, own=place[tenth.own] if len(tenth.own) else tenth.own),
        keys=lambda some: entries.keys(rows[some]),
        exact_keys=None if entries.exact_keys is None else lambda some: entries.made(rows[some]),
    )
    _, first = np.unique(pictures, return_index=True)
    some = np.sort(np.random.default_rng(0).permutation(first)[:CROSSED])
    known = overlay.bundle.manifest.equal_classes
    part, chosen = _crossed(title, keys, store.values[rows], classes, part, chosen, info, some, progress, known)
    assert chosen.holdout is not None
    tenth = replace(part.tenth, own=rows[part.tenth.own] if len(part.tenth.own) else part.tenth.own)
    asked = replace(chosen.holdout, own=rows[chosen.holdout.own])
    return replace(entries, tenth=tenth), replace(chosen, holdout=asked)


def _crossed(
    title: str,
    keys: Floats,
    values: Ints,
    classes: int,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    info: LinearHead,
    first: Ints,
    progress: Progress,
    known: int | None = None,
) -> tuple[VotingEntries, ChosenHoldout]:
    """All pictures, of which ``first`` (n,) are the first entries, answered by heads that did not see them.

    They are fitted as the one that ``info`` is of.
    """
    folds = folds_of(values, entries.pictures)
    logits = out_of_fold(keys, values, classes, folds, info.strength, progress, known=known, few=info.few)
    # A class's only picture tells nothing of new ones: neither head nor cache has another one to know it by.
    counts = np.bincount(values[first], minlength=classes)
    asked = first[counts[values[first]] > 1]
    of_tenth = logits[entries.tenth.own] if len(entries.tenth.labels) else _nothing(classes)
    tenth = replace(entries.tenth, logits=of_tenth, few=info.few)
    holdout = EmbeddedQueries(logits[asked], entries.made(asked), values[asked], own=asked, few=info.few)
    made = HoldoutInfo(
        name=f"cross-validation of {title}",
        images=len(asked),
        honest=True,
        why="the head that was asked of each was fitted without it, and no copy of it voted",
    )
    return replace(entries, tenth=tenth), ChosenHoldout(made, chosen.trained, holdout, folds[asked])


def _said(queries: EmbeddedQueries, opinion: LinearOpinion) -> EmbeddedQueries:
    return replace(queries, logits=opinion.head.logits(queries.keys), few=opinion.info.few)


def _nothing(classes: int) -> Floats:
    return np.empty((0, classes), np.float32)

"""Cross-validation of a linear head: how strong it is to be, and what it says of images that it has not seen.

Images are dealt into folds, each class over all of them, and copies of a picture (``datasets.copies``) into one. For
each fold a head is fitted on the others and asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.indexer.fitting.linear_head import LinearOpinion, Regression, bounded
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.manifest import LinearHead, TriedStrength
from secondlook.model.scoring import nll

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
FOLDS = 10
MOST_CHOSEN_BY = 2000
"""Images that the strength is chosen by, at most."""
MOST_CLASSES = 50
"""Classes that it is chosen by, at most: two images of each of a thousand say nothing of it."""
CHOICE_WORK = 4e9
"""Products of one pass over the images of each fold and strength, at most, but for two folds: half a minute of two
cores."""
WORSE = 2
"""So many strengths in a row that are worse than the best end the search."""


@dataclass(frozen=True)
class Choice:
    """A strength, and all that was tried."""

    strength: float
    tried: tuple[TriedStrength, ...]
    folds: int

    def info(self, images: int, *, less_tenth: bool = False) -> LinearHead:
        """As the manifest says it of a head that was fitted on so many entries."""
        return LinearHead(
            strength=self.strength,
            chosen_by="cross-validation" if self.tried else "given",
            folds=self.folds,
            tried=self.tried,
            images=images,
            less_tenth=less_tenth,
        )


def folds_of(labels: Ints, pictures: Ints, folds: int = FOLDS) -> Ints:
    """A fold for each image (n,) of those with labels and pictures (n,): as even as can be, within each class too."""
    _, first, of = np.unique(pictures, return_index=True, return_inverse=True)
    by_chance = np.random.default_rng(0).permutation(len(first))
    order = by_chance[np.argsort(labels[first][by_chance], kind="stable")]
    found = np.empty(len(first), np.int64)
    found[order] = np.arange(len(first)) % folds
    return found[of]


def choose_strength(
    keys: Floats,
    labels: Ints,
    pictures: Ints,
    classes: int,
    progress: Progress = silent,
    *,
    rows: Ints | None = None,
    known: int | None = None,
) -> Choice:
    """The strength at which heads give images that they have not seen the greatest likelihood.

    By keys (n,D), labels and pictures (n,), or by some of them and of the classes where there are many. With ``rows``
    (n,) the keys (N,D) are those of more images, of which these are asked. ``known`` is as for ``Regression``.
    """
    of_some = np.arange(len(labels))
    if classes > MOST_CLASSES:
        asked_of = np.random.default_rng(0).permutation(np.unique(labels))[:MOST_CLASSES]
        of_some = np.flatnonzero(np.isin(labels, asked_of))
    some = of_some[bounded(labels[of_some], 1, 1, MOST_CHOSEN_BY)]
    keys, labels, pictures = keys[some if rows is None else rows[some]], labels[some], pictures[some]
    folds = folds_of(labels, pictures)
    rows = np.arange(len(labels))
    # Of a class that is in one fold alone, the head of the others knows nothing.
    asked = [fold for fold in range(FOLDS) if (folds == fold).any() and (folds != fold).any()]
    work = min(len(labels), keys.shape[1]) * len(labels) * len(np.unique(labels)) * len(STRENGTHS)
    asked = asked[: int(np.clip(CHOICE_WORK / max(work, 1), 2, len(asked)))]
    regression = Regression(keys, labels, classes, known)
    tried: list[TriedStrength] = []
    for number, strength in enumerate(STRENGTHS):
        lost, weight = 0.0, 0
        for done, fold in enumerate(asked):
            progress("head", number * len(asked) + done, len(STRENGTHS) * len(asked))
            # From nothing, as the head that is served: begun where a weaker one ended, it would end there too soon.
            head = regression.fit(rows[folds != fold], strength)
            is_asked = (folds == fold) & np.isin(labels, labels[folds != fold])
            if is_asked.any():
                lost += nll(softmax(head.logits(keys[is_asked])), labels[is_asked]) * int(is_asked.sum())
                weight += int(is_asked.sum())
        if weight:
            tried.append(TriedStrength(strength=strength, nll=round(lost / weight, 4)))
        best = min(tried, key=lambda one: one.nll, default=None)
        if best is None or len(tried) - 1 - tried.index(best) >= WORSE:
            break
    progress("head", len(STRENGTHS) * len(asked), len(STRENGTHS) * len(asked))
    chosen = min(tried, key=lambda one: one.nll).strength if tried else STRENGTHS[len(STRENGTHS) // 2]
    return Choice(chosen, tuple(tried), len(asked))


def fit_linear_head(
    keys: Floats,
    labels: Ints,
    classes: int,
    choice: Choice,
    progress: Progress = silent,
    *,
    rows: Ints | None = None,
    known: int | None = None,
    less_tenth: bool = False,
) -> LinearOpinion:
    """The head of C classes of keys (n,D) with labels (n,), or of some of them where they are many.

    With ``rows`` (n,) the keys (N,D) are those of more entries, of which these are fitted on.
    """
    some = bounded(labels, keys.shape[1], classes)
    regression = Regression(keys[some if rows is None else rows[some]], labels[some], classes, known)
    head = regression.fit(slice(None), choice.strength, lambda done, most: progress("head", done, most))
    return LinearOpinion(head, choice.info(len(some), less_tenth=less_tenth))


def out_of_fold(
    keys: Floats,
    labels: Ints,
    classes: int,
    folds: Ints,
    strength: float,
    progress: Progress = silent,
    *,
    known: int | None = None,
    few: Sequence[int] = (),
) -> Floats:
    """What heads say of keys (n,D) with labels (n,) that took no part in their fit (n,C).

    They are not fitted to the classes ``few``.
    """
    regression = Regression(keys, labels, classes, known)
    logits = np.zeros((len(keys), classes), np.float32)
    is_fitted, present = ~np.isin(labels, few), np.unique(folds)
    for done, fold in enumerate(present.tolist()):
        head = regression.fit(np.flatnonzero(is_fitted & (folds != fold)), strength)
        logits[folds == fold] = head.logits(keys[folds == fold])
        progress("head", done + 1, len(present))
    return logits

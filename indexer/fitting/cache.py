"""What a cache is to answer with: parameters, the effort of its searches, and how far to trust what it says.

All of it is measured on one set of images, whose nearest entries are searched for once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.approximation import LISTED_K, S, measure
from secondlook.indexer.fitting.calibrate import calibrate, fit_doubt
from secondlook.indexer.fitting.class_figures import class_figures, confusion
from secondlook.indexer.fitting.crossed import crossed_doubt, keep_crossed, nearest_others
from secondlook.indexer.fitting.honest_holdout import ChosenHoldout
from secondlook.indexer.fitting.nearest_other import ENTRIES, FEWEST, larger, nearest_other
from secondlook.indexer.fitting.neighbors import nearest_entries
from secondlook.indexer.fitting.parameters import KS, fit_by_cross_validation, fit_by_leave_one_out, fit_parameters
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.bundles.kept_holdout import KeptHoldout
from secondlook.model.cache import Floats, Ints, mix, softmax
from secondlook.model.errors import DatasetError
from secondlook.model.manifest import (
    ApproximationError,
    Calibration,
    FitReport,
    HoldoutInfo,
    ParametersFrom,
    SameAs,
    Trained,
)
from secondlook.model.networks.engines import Encoding
from secondlook.model.scoring import error_percent
from secondlook.model.stores.store import Neighbors

ALONE = 5000
"""Cached images that are asked of each other where there is no honest holdout."""

KEPT = 5000
"""Images of a holdout that a bundle keeps, to be calibrated anew when it is taught."""


@dataclass(frozen=True)
class VotingEntries:
    """The entries that are to vote, besides their store."""

    pictures: Ints
    """(N,) a number for what each shows: the same for an image, its mirrored copy, and other copies of it."""
    tenth: EmbeddedQueries
    """A tenth of their images, asked where no other holdout is given."""
    held: NDArray[np.bool_]
    """(N,) those that show a picture of the tenth."""
    keys: Callable[[Ints], Floats]
    """The keys (n,D) of some."""
    exact_keys: Callable[[Ints], Floats] | None = None
    """The keys (n,D) of some, ascending, as the encoder makes them; None = those are the store's, or nobody knows."""
    exact: Iterable[tuple[Floats, Ints]] | None = None
    """Chunks of all keys as embedded, with values, where the store decodes others; None = it has them."""

    def made(self, rows: Ints) -> Floats:
        """The keys (n,D) of some, ascending, as the encoder makes them where those can be had."""
        return (self.exact_keys or self.keys)(rows)

    def exact_less(self, out: NDArray[np.bool_] | None) -> Iterable[tuple[Floats, Ints]] | None:
        """The same without some entries (N,)."""
        return None if self.exact is None else _Less(self.exact, out)


@dataclass(frozen=True)
class FittedCache(Generic[S]):
    """What was chosen, and how it was."""

    parameters: Parameters
    parameters_from: ParametersFrom
    trained: Trained
    store: S
    holdout: HoldoutInfo | None = None
    report: FitReport | None = None
    approximation_error: ApproximationError | None = None
    calibration: Calibration | None = None
    directions: Floats | None = None
    """(C,D+1) of RMDS, where novelty goes by it."""
    same_as: SameAs | None = None
    kept_holdout: KeptHoldout | None = None
    """What a bundle keeps of an honest holdout."""
    looks: Looks | None = None
    """Of the images of a holdout that parameters were fitted on."""
    rows: Ints | None = None
    """(n,) entries that they were fitted on, by leave-one-out."""
    answered: Ints | None = None
    """(C,C) how often images of each class are answered with each; None where no honest answers are known."""

    def manifest_fields(self, classes: Sequence[str]) -> dict[str, Any]:
        """What a manifest says of it, by the names of its fields; ``classes`` are the names of all classes."""
        report = self.report
        if report is not None and self.answered is not None:
            report = report.model_copy(update={"classes": class_figures(self.answered, classes)})
        return {
            **self.parameters._asdict(),
            "parameters_from": self.parameters_from,
            "holdout": self.holdout,
            "fit": report,
            "calibration": self.calibration,
            "same_as": self.same_as,
            "approximation_error": self.approximation_error,
        }


def fit_cache(
    store: S,
    classes: int,
    known: int,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    *,
    parameters: Parameters | None = None,
    ks: Sequence[int | None] = KS,
    is_exact: bool = False,
    unknown: Callable[[], Mapping[str, Encoding]] = dict,
    own_classes: int | None = None,
    progress: Progress = silent,
) -> FittedCache[S]:
    """Fit, measure and calibrate a cache of ``classes`` classes, the first ``known`` of which count alike in the vote.

    Where ``parameters`` are given, only the search is fitted to them, and nothing is calibrated; ``is_exact`` says that
    a search for them leaves nothing out. ``unknown`` gives kinds of unknown images, and ``own_classes`` is how many of
    the classes, the first ones, the bundle has itself (None = all).

    Raises:
        DatasetError: there are too few images to fit anything on.
    """
    holdout = None if chosen.folds is not None else chosen.holdout
    is_own = holdout is None or len(holdout.own) > 0
    asked, out = holdout or entries.tenth, entries.held if is_own else None
    served = ServedCache.of(store, classes, known, out)
    is_asked = len(asked.labels) > 0 and served.count > 0 and not (out is not None and out.all())
    if parameters is not None:
        fitted = FittedCache(parameters, "given", chosen.trained, store)
        if is_exact:
            return fitted
        return _searched(fitted, served, entries, asked, out, progress) if is_asked else _most(fitted)
    if holdout is None or not is_asked:
        if chosen.folds is None:
            fitted = _alone(store, classes, known, entries, chosen, ks, progress)
        else:
            whole = ServedCache.of(store, classes, known)
            fitted = _crossed(store, whole, entries, chosen, ks, unknown(), own_classes or classes, progress)
        return _searched(fitted, served, entries, asked, out, progress) if is_asked else _most(fitted)
    best, found = fit_parameters(asked, served, ks=ks, progress=progress)
    network = softmax(asked.logits, classes)
    doubt = fit_doubt(served, asked, found, unknown(), own_classes or classes)
    measured = measure(served, store, entries.exact_less(out), asked, found, best.parameters, doubt, progress)
    return FittedCache(
        best.parameters,
        "holdout",
        chosen.trained,
        measured.store,
        chosen.info,
        best.report,
        measured.approximation_error,
        calibrate(
            network,
            measured.cache,
            asked.labels,
            best.parameters.lam,
            doubt.novelty,
            doubt.scores,
            asked.new_classes(classes),
        ),
        doubt.directions,
        limits_of_same(asked.keys, found, entries, served),
        keep_holdout(asked, out),
        asked.looks,
        answered=confusion(mix(network, measured.cache, best.parameters.lam, asked.new_classes(classes)), asked.labels),
    )


def limits_of_same(keys: Floats, found: Neighbors, entries: VotingEntries, served: ServedCache) -> SameAs | None:
    """How near a holdout's images, with keys (n,D), ever are to other pictures.

    Where they are few, cached images are asked of each other too.
    """
    limits = nearest_other(found, lambda rows: keys[rows], entries.exact_keys)
    pictures, first = np.unique(entries.pictures, return_index=True)
    if len(keys) >= FEWEST or len(pictures) < 2:
        return limits
    rows = np.sort(np.random.default_rng(0).permutation(first)[:FEWEST])
    own = entries.pictures[rows]
    near = nearest_entries(replace(served, mask=None), entries.keys(rows), ENTRIES, entries.pictures, own)
    return larger(limits, nearest_other(near, lambda some: entries.made(rows[some]), entries.exact_keys))


def keep_holdout(holdout: EmbeddedQueries, out: NDArray[np.bool_] | None) -> KeptHoldout:
    """What a bundle keeps of a holdout, some of a large one; out (N,) are the entries that take no part."""
    some = np.sort(np.random.default_rng(0).permutation(len(holdout.labels))[:KEPT])
    own = holdout.own[some] if len(holdout.own) else np.full(len(some), -1, np.int64)
    no_part = np.flatnonzero(out) if out is not None else np.empty(0, np.int64)
    return KeptHoldout(holdout.logits[some], holdout.keys[some], holdout.labels[some], own, no_part)


def _alone(
    store: S,
    classes: int,
    known: int,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    ks: Sequence[int | None],
    progress: Progress,
) -> FittedCache[S]:
    """By leave-one-out of the cache: an image, its mirrored copy and other copies of it do not vote on it."""
    pictures, first = np.unique(entries.pictures, return_index=True)
    if len(pictures) < 2:
        raise DatasetError(
            "one image alone tells nothing of the parameters: give --theta, --lam and --k, or more images"
        )
    rows = np.sort(np.random.default_rng(0).permutation(first)[:ALONE])
    served = ServedCache.of(store, classes, known)
    k = min(max(k or 1 for k in ks), served.count)
    found = nearest_entries(served, entries.keys(rows), k, entries.pictures, entries.pictures[rows], progress)
    tenth = entries.tenth
    has_head = tenth.logits.shape[1] > 0
    errs = error_percent(softmax(tenth.logits, classes), tenth.labels) if has_head and len(tenth.labels) else None
    fitted = fit_by_leave_one_out(store.values[rows], found, served, errs, ks=ks, has_head=has_head)
    info = chosen.info.model_copy(update={"images": len(rows)})
    same_as = nearest_other(found, lambda some: entries.made(rows[some]), entries.exact_keys)
    # What a network says that may know its images by heart is no honest answer.
    chosen_k, theta = fitted.parameters.k, fitted.parameters.theta
    alone = None if has_head else served.vote(found.similarities[:, :chosen_k], found.values[:, :chosen_k], theta)
    return FittedCache(
        fitted.parameters,
        "leave-one-out",
        chosen.trained,
        store,
        info,
        fitted.report,
        same_as=same_as,
        rows=rows,
        answered=None if alone is None else confusion(alone, store.values[rows]),
    )


def _crossed(
    store: S,
    served: ServedCache,
    entries: VotingEntries,
    chosen: ChosenHoldout,
    ks: Sequence[int | None],
    unknown: Mapping[str, Encoding],
    own_classes: int,
    progress: Progress,
) -> FittedCache[S]:
    """By cross-validation: the head did not see the images that it is asked of, and no copy of them votes."""
    asked, folds = chosen.holdout, chosen.folds
    assert asked is not None
    assert folds is not None
    found = nearest_others(served, asked, entries.pictures, ks, progress)
    fitted = fit_by_cross_validation(asked, found, served, ks=ks)
    doubt = crossed_doubt(served, asked, folds, entries.pictures, found, unknown, own_classes, progress)
    network, (theta, lam, k) = softmax(asked.logits, served.classes), fitted.parameters
    cache = served.vote(found.similarities[:, :k], found.values[:, :k], theta)
    new = asked.new_classes(served.classes)
    return FittedCache(
        fitted.parameters,
        "cross-validation",
        chosen.trained,
        store,
        chosen.info,
        fitted.report,
        None,
        calibrate(network, cache, asked.labels, lam, doubt.novelty, doubt.scores, new),
        doubt.directions,
        limits_of_same(asked.keys, found, entries, served),
        keep_crossed(asked, doubt, entries.pictures),
        rows=asked.own,
        answered=confusion(mix(network, cache, lam, new), asked.labels),
    )


def _searched(
    fitted: FittedCache[S],
    served: ServedCache,
    entries: VotingEntries,
    asked: EmbeddedQueries,
    out: NDArray[np.bool_] | None,
    progress: Progress,
) -> FittedCache[S]:
    """With the search that its parameters need, and the distance from the exact sum."""
    k = min(fitted.parameters.k or LISTED_K, served.count)
    found = nearest_entries(served, asked.keys, k, progress=progress)
    measured = measure(
        served, fitted.store, entries.exact_less(out), asked, found, fitted.parameters, progress=progress
    )
    same_as = fitted.same_as or limits_of_same(asked.keys, found, entries, served)
    return replace(fitted, store=measured.store, approximation_error=measured.approximation_error, same_as=same_as)


def _most(fitted: FittedCache[S]) -> FittedCache[S]:
    """With the greatest effort: there is nothing to choose a smaller one on."""
    if fitted.store.is_exhaustive:
        return fitted
    return replace(fitted, store=fitted.store.with_search(fitted.store.search_settings()[-1]))


@dataclass(frozen=True)
class _Less:
    """Chunks of keys, some entries left out, without a second copy of all."""

    chunks: Iterable[tuple[Floats, Ints]]
    out: NDArray[np.bool_] | None

    def __iter__(self) -> Iterator[tuple[Floats, Ints]]:
        start = 0
        for keys, values in self.chunks:
            kept = np.ones(len(keys), bool) if self.out is None else ~self.out[start : start + len(keys)]
            start += len(keys)
            if kept.all():
                yield keys, values
            elif kept.any():
                yield keys[kept], values[kept]

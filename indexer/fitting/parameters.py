"""Fitting of theta, lam and k: on a holdout where there is an honest one, by leave-one-out of the cache elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting.neighbors import QUERIES_AT_ONCE, nearest_entries
from secondlook.indexer.progress import Progress, silent
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import Floats, Ints, mix, reweigh, softmax, vote
from secondlook.model.manifest import FitReport
from secondlook.model.scoring import ece_percent, error_percent, nll
from secondlook.model.stores.store import Neighbors

THETAS = tuple(
    float(theta) for theta in (1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200)
)
LAMS = tuple(round(step * 0.05, 2) for step in range(21))
KS: tuple[int | None, ...] = (10, 25, 50, 100, 200)

CAUTIOUS_LAM = 0.5
"""The share of the cache where no honest holdout says what it should be (docs/decisions/015)."""


USUAL_THETA = 20.0
"""What suits the features of most pretrained networks (docs/decisions/021)."""

USUAL_LAM = 0.25
"""What suits few photos, of which a head tells more than the cache (docs/decisions/021)."""

CAUTION = 8.0, 1.0
"""How much speaks beforehand for the usual lam and the usual theta: of few images, chance would choose the network
alone, or the cache."""


@dataclass(frozen=True)
class FittedParameters:
    """What fitting chose, and everything it tried."""

    parameters: Parameters
    report: FitReport


def fit_parameters(
    holdout: EmbeddedQueries,
    served: ServedCache,
    *,
    ks: Sequence[int | None] = KS,
    progress: Progress = silent,
) -> tuple[FittedParameters, Neighbors]:
    """Try every (k, theta, lam) on the holdout; what was chosen, and the holdout's nearest entries.

    The choice is the lowest negative log-likelihood among the cells whose error is within one standard error of the
    lowest: on a few thousand images the single cell with the fewest errors is mostly luck.
    """
    count = served.count
    ks = sorted({k if k is None else min(k, count) for k in ks}, key=lambda k: k or count + 1)
    network, has_head = softmax(holdout.logits, served.classes), holdout.logits.shape[1] > 0
    found = nearest_entries(served, holdout.keys, min(max(k or 1 for k in ks), count), progress=progress)
    fitted = choose_parameters(
        network,
        holdout.labels,
        found.similarities,
        found.values,
        count,
        ks=ks,
        lams=LAMS if has_head else (1.0,),
        by_class=served.class_weights,
        exact=_exact(served, holdout.keys, progress) if None in ks else None,
        new=holdout.new_classes(served.classes),
    )
    return fitted, found


def fit_by_leave_one_out(
    labels: Ints,
    found: Neighbors,
    served: ServedCache,
    network_error_percent: float | None,
    *,
    ks: Sequence[int | None] = KS,
    has_head: bool = True,
) -> FittedParameters:
    """Choose theta and k by the cache alone, and lam with caution: for a network that may know its images by heart.

    Without a head lam is 1, and they are chosen as on a holdout, by what will be answered.

    ``labels`` (n,) are of cached images, ``found`` their nearest entries other than themselves. Keys are learned by
    heart far less than logits, so that the theta at which they tell most of each other is that of new images too; how
    much to believe the network, such images cannot tell.
    """
    ks = sorted({min(k, found.ids.shape[1]) for k in ks if k is not None}) or [found.ids.shape[1]]
    # As it will be mixed, with a network that says nothing: what the cache alone would be punished for, entries that
    # are all of one wrong class, the network's half makes good.
    nothing = np.full((len(labels), served.classes), 1.0 / served.classes, np.float32)
    fitted = choose_parameters(
        nothing,
        labels,
        found.similarities,
        found.values,
        served.count,
        ks=ks,
        lams=(CAUTIOUS_LAM,) if has_head else (1.0,),
        by_class=served.class_weights,
        # By its errors a duller theta kept 66 % of what the cache can gain on the paper's CIFAR-100 weights.
        likeliest=has_head,
    )
    # Of the network, images that it may know by heart tell its errors and nothing more.
    unknown = {"network_nll": None, "network_ece_percent": None, "fewer_errors": None}
    report = fitted.report.model_copy(update={"network_error_percent": network_error_percent, **unknown})
    return FittedParameters(fitted.parameters, report)


def fit_by_cross_validation(
    asked: EmbeddedQueries, found: Neighbors, served: ServedCache, *, ks: Sequence[int | None] = KS
) -> FittedParameters:
    """Choose theta, lam and k by cached images, of which a head says what it says of images that it has not seen.

    ``found`` are their nearest entries but for those of the same picture. The choice is the likeliest cell, with a
    caution beforehand that counts where images are few and not where they are many.
    """
    ks = sorted({min(k, found.ids.shape[1]) for k in ks if k is not None}) or [found.ids.shape[1]]
    return choose_parameters(
        softmax(asked.logits, served.classes),
        asked.labels,
        found.similarities,
        found.values,
        served.count,
        ks=ks,
        by_class=served.class_weights,
        likeliest=True,
        caution=caution(LAMS) / len(asked.labels),
        new=asked.new_classes(served.classes),
    )


def caution(lams: Sequence[float]) -> NDArray[np.float64]:
    """What speaks beforehand against each theta and lam (thetas,lams), in nats; nothing against the usual ones.

    Of lam, it is what so many images would say of which that share is told by the cache and the others by the network.
    """
    of_lam, of_theta = CAUTION
    shares = np.clip(np.asarray(lams), 1e-4, 1 - 1e-4)
    told = USUAL_LAM * np.log(shares / USUAL_LAM) + (1 - USUAL_LAM) * np.log((1 - shares) / (1 - USUAL_LAM))
    against: NDArray[np.float64] = of_theta * np.log(np.asarray(THETAS) / USUAL_THETA)[:, None] ** 2 - of_lam * told
    return against


def _exact(served: ServedCache, keys: Floats, progress: Progress) -> Floats:
    """The vote (thetas,n,C) of all entries."""
    exact = np.empty((len(THETAS), len(keys), served.classes), np.float32)
    for start in range(0, len(keys), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        exact[:, rows] = served.exact_vote(keys[rows], THETAS)
        progress("fit", min(start + QUERIES_AT_ONCE, len(keys)), len(keys))
    return exact


def choose_parameters(
    network: Floats,
    labels: Ints,
    similarities: Floats,
    values: Ints,
    entries: int,
    *,
    ks: Sequence[int | None],
    lams: Sequence[float] = LAMS,
    exact: Floats | None = None,
    by_class: NDArray[np.float64] | None = None,
    likeliest: bool = False,
    caution: NDArray[np.float64] | None = None,
    new: Ints | None = None,
) -> FittedParameters:
    """Choose as ``fit_parameters`` does, from p_net (n,C) and the nearest entries' similarities and values (n,m).

    Without a head p_net is 0. ``entries`` is of how many these are the nearest; ``exact`` (thetas,n,C) is the vote of
    them all, for k = None; ``by_class`` (C,) is how much an entry of each class counts. ``likeliest``: the lowest
    negative log-likelihood, whatever its error; ``caution`` (thetas,lams) is added to it. ``new`` are the
    classes that the network does not know.
    """

    def voted(i: int, j: int) -> Floats:
        k = ks[i]
        if k is None:
            assert exact is not None
            of_all: Floats = exact[j]
            return of_all
        return reweigh(vote(similarities[:, :k], values[:, :k], THETAS[j], network.shape[1]), by_class)

    errors = np.empty((len(ks), len(THETAS), len(lams)))
    losses = np.empty_like(errors)
    for i in range(len(ks)):
        for j in range(len(THETAS)):
            cache = voted(i, j)
            for m, lam in enumerate(lams):
                mixed = mix(network, cache, lam, new)
                errors[i, j, m] = error_percent(mixed, labels)
                losses[i, j, m] = nll(mixed, labels)
    lowest = errors.min() / 100
    allowed = 100.0 if likeliest else 100 * (lowest + np.sqrt(lowest * (1 - lowest) / len(network)))
    judged = losses if caution is None else losses + caution
    i, j, m = min(np.argwhere(errors <= allowed).tolist(), key=lambda cell: float(judged[tuple(cell)]))
    mixed, has_network = mix(network, voted(i, j), lams[m], new), bool(network.any())
    return FittedParameters(
        Parameters(THETAS[j], lams[m], ks[i]),
        FitReport(
            images=len(network),
            entries=entries,
            ks=tuple(ks),
            thetas=THETAS,
            lams=tuple(lams),
            error_percent=_rounded(errors),
            nll=_rounded(losses),
            network_error_percent=error_percent(network, labels) if has_network else None,
            network_nll=nll(network, labels) if has_network else None,
            network_ece_percent=ece_percent(network, labels) if has_network else None,
            chosen_error_percent=float(errors[i, j, m]),
            chosen_nll=float(losses[i, j, m]),
            chosen_ece_percent=ece_percent(mixed, labels),
            fewer_errors=_fewer(network, mixed, labels) if has_network else None,
        ),
    )


def _fewer(network: Floats, mixed: Floats, labels: Ints) -> tuple[float, float]:
    """By how many points, from and to, the mixture errs less than the network: a 95 % interval over the images."""
    fewer = 100.0 * ((network.argmax(axis=1) != labels) * 1.0 - (mixed.argmax(axis=1) != labels))
    half = 1.96 * float(fewer.std()) / np.sqrt(len(labels))
    return round(float(fewer.mean() - half), 4), round(float(fewer.mean() + half), 4)


def _rounded(grid: NDArray[np.float64]) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(round(float(cell), 4) for cell in row) for row in plane) for plane in grid)

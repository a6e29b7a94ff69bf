"""One cache as a point of a curve: theta and lam fitted to it on the holdout, and its errors on the test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.evaluation.evaluate import Setting, opinions
from secondlook.evaluation.fit_grid import best_alone
from secondlook.indexer.fitting.parameters import choose_parameters
from secondlook.model.cache import Floats, Ints, vote
from secondlook.model.intervals import Interval, bootstrap
from secondlook.model.scoring import nll


@dataclass(frozen=True)
class Point:
    """The three models with one cache."""

    label: str
    entries: int
    mirrored: bool
    dim: int
    theta: float
    lam: float
    cache_theta: float
    error_percent: dict[str, Interval]
    fewer_errors: dict[str, Interval]
    """By how many points mixture and cache err less than the network, on the same images."""
    nll: dict[str, float]


@dataclass(frozen=True)
class Queries:
    """Images that ask: those measured on come first, those of the holdout behind them."""

    network: Floats
    """p_net (n,C) of all."""
    labels: Ints
    """(n,)."""
    held: int
    """How many are the holdout's."""

    def point(self, label: str, found: tuple[Floats, Ints], k: int, entries: int, mirrored: bool, dim: int) -> Point:
        """Fit and measure on the nearest entries' similarities and values (n,m)."""
        similarities, values = found[0][:, :k], found[1][:, :k]
        k = similarities.shape[1]
        fit, ask = slice(len(self.labels) - self.held, None), slice(0, len(self.labels) - self.held)
        fitted = choose_parameters(
            self.network[fit], self.labels[fit], similarities[fit], values[fit], entries, ks=(k,)
        )
        setting = Setting(fitted.parameters.theta, fitted.parameters.lam, k, best_alone(fitted.report, k))
        network, labels = self.network[ask], self.labels[ask]
        votes = [
            vote(similarities[ask], values[ask], theta, network.shape[1])
            for theta in (setting.theta, setting.cache_theta)
        ]
        said = opinions(network, np.stack(votes), setting)
        wrong = {name: 100.0 * (p.argmax(axis=1) != labels) for name, p in said.items()}
        return Point(
            label,
            entries,
            mirrored,
            dim,
            setting.theta,
            setting.lam,
            setting.cache_theta,
            {name: bootstrap(errs) for name, errs in wrong.items()},
            {name: bootstrap(wrong["network"] - errs) for name, errs in wrong.items() if name != "network"},
            {name: nll(p, labels) for name, p in said.items()},
        )


def merged(one: tuple[Floats, Ints], other: tuple[Floats, Ints], k: int) -> tuple[Floats, Ints]:
    """Merge the k nearest of two searches: similarities and values (n,.) of each, descending."""
    similarities = np.concatenate((one[0], other[0]), axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    values = np.concatenate((one[1], other[1]), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(values, order, axis=1)

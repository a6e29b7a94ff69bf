"""A second opinion on images: encode, search, vote, mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cache import Floats, Ints, check_parameters, exact_vote, mix, softmax, vote, weights
from model.errors import ImageError
from model.lookup import search_until_sure
from model.stores import check_k, is_exhaustive

MAX_NEIGHBORS = 50


class Parameters(NamedTuple):
    """How network and cache are mixed."""

    theta: float
    lam: float
    k: int | None
    """None = all entries."""


@dataclass(frozen=True)
class Answer:
    """What network, cache and mixture say of one image, and why."""

    network: Floats
    """(C,) probabilities."""
    cache: Floats
    """(C,)."""
    mixed: Floats
    """(C,)."""
    novelty: float
    """1 - similarity of the calibrated neighbour."""
    is_novel: bool | None
    """None where the bundle has no calibration."""
    ids: Ints
    """(n,) the nearest entries."""
    values: Ints
    """(n,) their labels."""
    similarities: Floats
    """(n,)."""
    weights: NDArray[np.float64]
    """(n,) their shares of the vote; 0 for those beyond k."""


class Predictor:
    """Answers with one bundle; ``predict`` is called from one thread at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        manifest = bundle.manifest
        self.defaults = Parameters(manifest.theta, manifest.lam, manifest.k)
        self._novelty = manifest.calibration.novelty if manifest.calibration else None

    def parameters(
        self, theta: float | None = None, lam: float | None = None, k: int | Literal["all"] | None = None
    ) -> Parameters:
        """The bundle's parameters, with some replaced.

        Raises:
            ParameterError: one is out of its range.
        """
        chosen = Parameters(
            self.defaults.theta if theta is None else theta,
            self.defaults.lam if lam is None else lam,
            None if k == "all" else self.defaults.k if k is None else k,
        )
        check_parameters(*chosen)
        check_k(chosen.k, is_exhaustive=is_exhaustive(self.bundle.manifest.store.factory))
        return chosen

    def predict(
        self, images: NDArray[np.uint8], asked: Sequence[Parameters], neighbors: int = 0
    ) -> list[Answer | ImageError]:
        """Answer for images (B,height,width,3), each under its own parameters; one bad image fails alone.

        ``neighbors`` is how many of the nearest entries each answer lists.
        """
        logits, keys = self.bundle.engine.encode(images)
        sound = np.asarray(np.isfinite(np.concatenate((logits, keys), axis=1)).all(axis=1))
        logits = np.where(sound[:, None], logits, 0)
        keys = np.where(sound[:, None], keys, 0)
        network = softmax(logits)
        nth = self._novelty.neighbor if self._novelty else 1
        wanted = max(neighbors, nth, *(p.k or 1 for p in asked))
        # Bounded, because a store fills up to k places: a k of 10^12 must cost no more than all entries.
        wanted = min(wanted, self.bundle.store.count)
        theta, lam, k = self.defaults
        if neighbors == 0 and k is not None and all(p == self.defaults for p in asked):
            found = search_until_sure(self.bundle.store, keys, network, theta, lam, wanted, self._novelty)
        else:
            found = self.bundle.store.search(keys, wanted)
        groups: dict[Parameters, list[int]] = {}
        for row, parameters in enumerate(asked):
            groups.setdefault(parameters, []).append(row)
        answers: list[Answer | ImageError] = [ImageError("the network gives no finite answer for this image")] * len(
            asked
        )
        classes = network.shape[1]
        for parameters, rows in groups.items():
            theta, lam, k = parameters
            similarities, values = found.similarities[rows], found.values[rows]
            if k is None:
                votes, totals = exact_vote(keys[rows], self.bundle.store.chunks(), (theta,), classes)
                cache = votes[0]
                relative = np.exp(theta * (similarities - similarities[:, :1]).astype(np.float64))
                shares = relative / totals[0][:, None]
            else:
                cache = vote(similarities[:, :k], values[:, :k], theta, classes)
                shares = weights(similarities[:, :k], values[:, :k], theta)
            mixed = mix(network[rows], cache, lam)
            for i, row in enumerate(rows):
                if not sound[row]:
                    continue
                score = 1.0 - float(similarities[i, min(nth, self.bundle.store.count) - 1])
                listed = min(neighbors, self.bundle.store.count)
                padded = np.zeros(listed)
                padded[: shares.shape[1]] = shares[i, :listed]
                answers[row] = Answer(
                    network[row],
                    cache[i],
                    mixed[i],
                    score,
                    score > self._novelty.threshold if self._novelty else None,
                    found.ids[row, :listed],
                    values[i, :listed],
                    similarities[i, :listed],
                    padded,
                )
        return answers

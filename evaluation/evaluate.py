"""Error, calibration and likelihood of network, mixture and cache alone: the paper's first figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.datasets import Dataset
from indexer.encoders import check_classes
from indexer.index import embed_images
from indexer.progress import Progress, silent
from model.bundle import Bundle
from model.cache import Floats, Ints, check_parameters, exact_vote, mix, softmax, vote
from model.errors import DatasetError
from model.lookup import vote_until_sure
from model.metrics import ece_percent, error_percent, nll

QUERIES_AT_ONCE = 1000


@dataclass(frozen=True)
class Metrics:
    """How good one model's probabilities are."""

    error_percent: float
    ece_percent: float
    nll: float


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured."""

    count: int
    generation: str
    parameters: dict[str, float | None]
    network: Metrics
    mixed: Metrics
    cache_only: Metrics


def evaluate(
    bundle: Bundle,
    dataset: Dataset,
    theta: float | None = None,
    lam: float | None = None,
    cache_theta: float | None = None,
    *,
    exact: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Classify a whole dataset with a bundle, under its own parameters where no others are given.

    Raises:
        DatasetError: the dataset's classes are not the bundle's, it is what the bundle caches, or too many images are
            unreadable.
        ParameterError: a parameter is out of its range.
    """
    manifest = bundle.manifest
    check_classes(dataset, manifest)
    if dataset.split == "test" and dataset.content_hash() == manifest.dataset.sha256:
        raise DatasetError(
            f"{dataset.name} is what the bundle caches, each image would find itself: evaluate other images"
        )
    theta = manifest.theta if theta is None else theta
    lam = manifest.lam if lam is None else lam
    cache_theta = theta if cache_theta is None else cache_theta
    k = None if exact else manifest.k
    check_parameters(theta, lam, k)
    check_parameters(cache_theta, lam, k)
    logits, keys, labels = embed_images(dataset, np.arange(len(dataset.labels)), bundle.engine, progress)
    network = softmax(logits)
    cache = np.empty((2, *network.shape), np.float32)
    novelty = manifest.calibration.novelty if manifest.calibration else None
    as_served = k is not None and (theta, lam, k) == (manifest.theta, manifest.lam, manifest.k)
    for start in range(0, len(keys), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        cache[:, rows] = _votes(bundle, keys[rows], (theta, cache_theta), k, network.shape[1])
        if as_served and k is not None:
            # What the server does; the cache alone is another model, which no quick search was fitted for.
            _, cache[0, rows] = vote_until_sure(bundle.store, keys[rows], network[rows], theta, lam, k, novelty)
        progress("vote", min(start + QUERIES_AT_ONCE, len(keys)), len(keys))
    return Evaluation(
        count=len(labels),
        generation=manifest.generation,
        parameters={"theta": theta, "lam": lam, "k": k, "cache_theta": cache_theta},
        network=_metrics(network, labels),
        mixed=_metrics(mix(network, cache[0], lam), labels),
        cache_only=_metrics(cache[1], labels),
    )


def _votes(bundle: Bundle, keys: Floats, thetas: tuple[float, float], k: int | None, classes: int) -> Floats:
    if k is None:
        return exact_vote(keys, bundle.store.chunks(), thetas, classes)[0]
    found = bundle.store.search(keys, k)
    return np.stack([vote(found.similarities, found.values, theta, classes) for theta in thetas])


def _metrics(probabilities: Floats, labels: Ints) -> Metrics:
    return Metrics(error_percent(probabilities, labels), ece_percent(probabilities, labels), nll(probabilities, labels))

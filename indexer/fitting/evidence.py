"""What labelled images say of a network as it was run: how surprised three judges are by each image's label.

``head``
    The negative log-likelihood of the image's class by the whole softmax, where a class of the network's means it.
``table``
    Of its label by a table of which network's class goes with which label, counted from the other images' softmaxes.
    It asks for no matching class: what the head says of pictures of a kind need only be the same again.
``neighbours``
    Of its label by the vote of all the other images' keys.

Each is by labels and leaves the image itself out: a wrong preprocessing gains nothing by making a network more, or
less, sure of itself. Which says more depends on network and images; their mean is more than each
(docs/decisions/017).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.keys import keys_of
from secondlook.model.networks.network import Network
from secondlook.model.networks.proof import Judge
from secondlook.model.networks.recipe import Recipe

Labels = NDArray[np.int64]

BATCH = 16
THETAS = (10.0, 20.0, 40.0)
COUNTED = (0.003, 0.01, 0.03, 0.1)
"""Images that a table is given beforehand for each of the network's classes, spread as the labels are."""
CLIP = 1.0
"""Up to which a difference between two losses of an image counts: a few images are not to decide."""
_FLOOR = 1e-4
"""Probability that an image's own class has at least."""


class Seen(NamedTuple):
    """What a network gave for n images."""

    logits: Floats | None
    """(n,C)"""
    keys: Floats
    """(n,D), unit length."""

    def of(self, rows: NDArray[np.int64] | slice) -> Seen:
        """Some of the images."""
        return Seen(None if self.logits is None else self.logits[rows], self.keys[rows])

    def and_(self, more: Seen) -> Seen:
        """These images and more."""
        logits = None if self.logits is None or more.logits is None else np.concatenate((self.logits, more.logits))
        return Seen(logits, np.concatenate((self.keys, more.keys)))


def see(network: Network, images: NDArray[np.uint8], recipe: Recipe) -> Seen:
    """Run a network on images (n,height,width,3), n >= 1."""
    logits, keys = [], []
    for start in range(0, len(images), BATCH):
        found, seen = network.activations(images[start : start + BATCH], recipe.layers)
        keys.append(keys_of(seen, network.layers(), recipe))
        if found is not None:
            logits.append(found)
    return Seen(np.concatenate(logits) if logits else None, np.concatenate(keys))


def judges(match: ClassMatch | None, *, has_head: bool) -> tuple[Judge, ...]:
    """Those that can be asked."""
    if not has_head:
        return ("neighbours",)
    return ("table", "neighbours") if match is None else ("head", "table", "neighbours")


def surprise(seen: Seen, labels: Labels, match: ClassMatch | None) -> Floats:
    """(n,) float64: the mean of all judges' negative log-likelihoods."""
    found = [neighbour_losses(seen.keys, labels)]
    if seen.logits is not None:
        found.append(table_losses(seen.logits, labels))
        if match is not None:
            found.append(head_losses(seen.logits, labels, match))
    return np.asarray(np.mean(found, axis=0), np.float64)


def head_losses(logits: Floats, labels: Labels, match: ClassMatch) -> Floats:
    """(n,) of the images' own classes by the whole softmax."""
    own = match.log_probabilities(logits)[np.arange(len(labels)), labels]
    return _losses(np.exp(own))


def neighbour_losses(keys: Floats, labels: Labels) -> Floats:
    """(n,) of the vote of all the other images, at the theta that makes their mean least."""
    similar = (keys @ keys.T).astype(np.float64)
    np.fill_diagonal(similar, -np.inf)
    similar -= similar.max(axis=1, keepdims=True)
    same = labels[:, None] == labels[None, :]
    tried = []
    for theta in THETAS:
        weights = np.exp(theta * similar)
        tried.append(_losses((weights * same).sum(axis=1) / weights.sum(axis=1)))
    return np.asarray(min(tried, key=np.mean), np.float64)


def table_losses(logits: Floats, labels: Labels) -> Floats:
    """(n,) by p(label) = sum over the network's classes c of p(c) p(label | c), counted from the other images."""
    _, places, many = np.unique(labels, return_inverse=True, return_counts=True)
    softmax = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    counts = (places == np.arange(len(many))[:, None]).astype(np.float64) @ softmax
    usual = (many / len(labels))[places]
    own, total = counts[places] - softmax, counts.sum(axis=0) - softmax
    tried = []
    for beside in COUNTED:
        share = softmax / (total + beside)
        tried.append(_losses(np.einsum("nc,nc->n", share, own) + beside * usual * share.sum(axis=1)))
    return np.asarray(min(tried, key=np.mean), np.float64)


def lead(worse: Floats, better: Floats) -> float:
    """Standard errors by which the mean of paired differences (n,), each within CLIP, is above 0."""
    difference = np.clip(worse - better, -CLIP, CLIP)
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return float(difference.mean()) / max(error, 1e-9) if difference.any() else 0.0


def _losses(probabilities: Floats) -> Floats:
    return np.asarray(-np.log(probabilities * (1 - _FLOOR) + _FLOOR), np.float64)

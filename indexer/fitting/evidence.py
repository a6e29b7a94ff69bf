"""What labelled images say of a network as it was run: how surprised three judges are by each image's label.

``head``
    The negative log-likelihood of the image's class by the whole softmax, where a class of the network's means it.
``table``
    Of its label by a table of which network's class goes with which label, counted from the other images' softmaxes.
    It asks for no matching class: what the head says of pictures of a kind need only be the same again.
``neighbours``
    Of its label by the vote of all the other images' keys.

Each is by labels and leaves the image itself out: a wrong preprocessing gains nothing by making a network more, or
less, sure of itself. Which says more depends on network and images: their mean is asked (docs/decisions/018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.engines import Encoding
from secondlook.model.networks.keys import keys_of
from secondlook.model.networks.network import Network
from secondlook.model.networks.proof import Judge
from secondlook.model.networks.recipe import Recipe

Labels = NDArray[np.int64]

BATCH = 16
SHARPNESS = 1.5
"""Of the vote, over the standard deviation of all similarities: keys that are only spread more gain nothing. Far below
the best theta: sharper votes hang on fewer images, and each candidate's own best made chance look certain."""
COUNTED = (0.003, 0.01, 0.03, 0.1)
"""Images that a table is given beforehand for each of the network's classes, spread as the labels are."""
CLIP = 1.0
"""Up to which a difference between two losses of an image counts: a few images are not to decide."""
_FLOOR = 1e-4
"""Probability that an image's own class has at least."""


class Seen(NamedTuple):
    """What a network gave for n images."""

    softmax: Floats | None
    """(n,C) float32; None without a head."""
    keys: Floats
    """(n,D), unit length."""

    def of(self, rows: NDArray[np.int64] | slice) -> Seen:
        """Some of the images."""
        return Seen(None if self.softmax is None else self.softmax[rows], self.keys[rows])

    def and_(self, more: Seen) -> Seen:
        """These images and more."""
        both = None
        if self.softmax is not None and more.softmax is not None:
            both = np.concatenate((self.softmax, more.softmax))
        return Seen(both, np.concatenate((self.keys, more.keys)))


def given(network: Network, images: NDArray[np.uint8], recipe: Recipe) -> Encoding:
    """All logits (n,C) of a network, C = 0 without a head, and the keys (n,D) of n >= 1 images (n,height,width,3)."""
    parts = []
    for start in range(0, len(images), BATCH):
        logits, seen = network.activations(images[start : start + BATCH], recipe.layers)
        keys = keys_of(seen, network.layers(), recipe)
        parts.append(Encoding(np.empty((len(keys), 0), np.float32) if logits is None else logits, keys))
    return Encoding(np.concatenate([part.logits for part in parts]), np.concatenate([part.keys for part in parts]))


def see(network: Network, images: NDArray[np.uint8], recipe: Recipe) -> Seen:
    """The same of n >= 1 images, as it is judged."""
    return seen_in(given(network, images, recipe))


def seen_in(encoding: Encoding) -> Seen:
    """What a network gave, as it is judged."""
    return Seen(softmax(encoding.logits) if encoding.logits.shape[1] else None, encoding.keys)


def softmax(logits: Floats) -> Floats:
    """(n,C) -> (n,C) float32."""
    made = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(made / made.sum(axis=1, keepdims=True), np.float32)


def judges(match: ClassMatch | None, *, has_head: bool) -> tuple[Judge, ...]:
    """Those that can be asked."""
    if not has_head:
        return ("neighbours",)
    return ("table", "neighbours") if match is None else ("head", "table", "neighbours")


def surprise(seen: Seen, labels: Labels, match: ClassMatch | None) -> Floats:
    """(n,) float64: the mean of all judges' negative log-likelihoods."""
    found = [neighbour_losses(seen.keys, labels)]
    if seen.softmax is not None:
        found.append(table_losses(seen.softmax, labels))
        if match is not None:
            found.append(head_losses(seen.softmax, labels, match))
    return np.asarray(np.mean(found, axis=0), np.float64)


def head_losses(softmax: Floats, labels: Labels, match: ClassMatch) -> Floats:
    """(n,) of the images' own classes by the whole softmax (n,C)."""
    own: Floats = np.zeros(len(labels), np.float32)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        own[rows] = softmax[np.ix_(rows, match.groups[label])].sum(axis=1)
    return _losses(own)


def neighbour_losses(keys: Floats, labels: Labels, theta: float | None = None) -> Floats:
    """(n,) of the vote of all the other images; without a theta as sharp as SHARPNESS says."""
    similar = (keys @ keys.T).astype(np.float64)
    if theta is None:
        spread = float(similar[~np.eye(len(similar), dtype=bool)].std())
        theta = SHARPNESS / max(spread, 1e-6)
    np.fill_diagonal(similar, -np.inf)
    weights = np.exp(theta * (similar - similar.max(axis=1, keepdims=True)))
    same = labels[:, None] == labels[None, :]
    return _losses((weights * same).sum(axis=1) / weights.sum(axis=1))


def table_losses(softmax: Floats, labels: Labels) -> Floats:
    """(n,) by p(label) = sum over the network's classes c of p(c) p(label | c), counted from the other images."""
    _, places, many = np.unique(labels, return_inverse=True, return_counts=True)
    counts = (places == np.arange(len(many))[:, None]).astype(np.float32) @ softmax
    usual = (many / len(labels))[places]
    own = np.maximum(counts[places] - softmax, 0)
    total = np.maximum(counts.sum(axis=0) - softmax, own)
    tried = []
    for beside in COUNTED:
        share = softmax / (total + np.float32(beside))
        tried.append(_losses(np.einsum("nc,nc->n", share, own) + beside * usual * share.sum(axis=1)))
    return np.asarray(min(tried, key=np.mean), np.float64)


def lead(worse: Floats, better: Floats) -> float:
    """Standard errors by which the mean of paired differences (n,), each within CLIP, is above 0."""
    difference = np.clip(worse - better, -CLIP, CLIP)
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return float(difference.mean()) / max(error, 1e-9) if difference.any() else 0.0


def _losses(probabilities: Floats) -> Floats:
    return np.asarray(-np.log(probabilities * (1 - _FLOOR) + _FLOOR), np.float64)

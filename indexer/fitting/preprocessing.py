"""Preprocessing, measured: which arithmetic and geometry labelled photos speak for.

By the negative log-likelihood of the head's whole softmax where classes match, else by that of leave-one-out
neighbours. What is declared is beaten where another one is better by more than chance allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats
from secondlook.model.images import Geometry
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.keys import keys_of
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess

Answer = Literal["confirmed", "beaten", "cannot tell"]
Read = Callable[[int, Geometry], "NDArray[np.uint8]"]

THETAS = (10.0, 20.0, 40.0)
FEWEST = 30
"""Images below which nothing is told."""
CLEARLY = 3.0
"""Standard errors by which the mean of paired differences has to be above 0 for one preprocessing to beat another."""
MATTERS = 0.01
"""Nats by which it has to be better too: where images are told apart easily, certain differences are of no weight."""
CONFIRMED = 2.0
"""The same, for what is declared to be confirmed against the best of the others."""
BATCH = 16
_FLOOR = 1e-4
"""Probability that an image's own class has at least, so that one image does not decide."""


class Tried(NamedTuple):
    """One candidate."""

    said: str
    preprocess: Preprocess
    nll: float
    behind: float
    """Standard errors by which it is worse than what is declared; negative where it is better."""


@dataclass(frozen=True)
class Proof:
    """What labelled photos say."""

    images: int
    by: Literal["head", "neighbours"]
    arithmetic: tuple[Tried, ...]
    """What is declared, then the others, best first."""
    answer: Answer
    better: Tried | None
    """The arithmetic that beats what is declared, or that would be chosen where nothing is."""
    geometry: tuple[Tried, ...]
    suggestion: Tried | None
    """A geometry that is clearly better."""


def candidates(declared: Arithmetic) -> list[tuple[str, Arithmetic]]:
    """The declared arithmetic, and what people confuse it with, less what hardly differs from an earlier one."""
    layout = declared.layout
    kinds = {
        "ImageNet mean and std": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "x/255": {},
        "(x - 127)/128": {"scale": 1.0, "mean": (127.0,) * 3, "std": (128.0,) * 3},
        "0..255": {"scale": 1.0},
        "CLIP mean and std": {
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
        },
        "0..255 less the mean": {"scale": 1.0, "mean": (123.68, 116.779, 103.939)},
    }
    found = [("declared", declared)]
    for channels in ("RGB", "BGR"):
        own = ("declared, but BGR" if declared.channels == "RGB" else "declared, but RGB", declared)
        for said, made in (own, *((said, Arithmetic(layout=layout, **fields)) for said, fields in kinds.items())):  # type: ignore[arg-type]
            if made is not declared and channels == "BGR":
                made = made.model_copy(update={"mean": made.mean[::-1], "std": made.std[::-1]})
            made = made.model_copy(update={"channels": channels})
            if all(_differs(made, other) for _, other in found):
                said = said if made.channels == "RGB" or said.startswith("declared") else f"BGR, {said}"
                found.append((said, made))
    return found


def _differs(one: Arithmetic, other: Arithmetic) -> bool:
    if one.channels != other.channels:
        return True
    (a, b), (c, d) = one.factors, other.factors
    spread = 255 * np.maximum(np.abs(a), np.abs(c))
    return bool((np.maximum(np.abs(b - d), np.abs(255 * (a - c) + b - d)) > 0.02 * spread).any())


def geometries(declared: Geometry) -> list[tuple[str, Geometry]]:
    """The declared geometry, and others of the same size."""
    same = {"height": declared.height, "width": declared.width, "interpolation": declared.interpolation}
    found = [("declared", declared)]
    for said, made in (
        ("crop .875", Geometry(**same, rule="crop", crop_share=0.875)),
        ("crop", Geometry(**same, rule="crop")),
        ("squash", Geometry(**same, rule="squash")),
        ("pad", Geometry(**same, rule="pad")),
    ):
        if (made.rule, made.scaled) != (declared.rule, declared.scaled):
            found.append((said, made))
    return found


def measure(
    network: OnnxNetwork,
    read: Read,
    chosen: Sequence[int],
    labels: NDArray[np.int64],
    match: ClassMatch | None,
    progress: Progress = silent,
    *,
    with_geometry: bool = True,
) -> Proof:
    """Measure what a network's preprocessing says on the images ``chosen`` (labels (n,) are theirs)."""
    declared = network.preprocess
    arithmetic = candidates(declared.arithmetic)
    geometric = geometries(declared.geometry) if with_geometry else []
    first = "declared" if declared.is_declared else "assumed"
    arithmetic[0] = (first, declared.arithmetic)
    total, done = len(arithmetic) + max(0, len(geometric) - 1), 0
    images = _stacked(read, chosen, declared.geometry)
    tried: list[tuple[str, Preprocess, Floats]] = []
    for said, made in arithmetic:
        preprocess = declared.model_copy(update={"arithmetic": made})
        tried.append((said, preprocess, losses(network.taking(preprocess), images, labels, match)))
        progress("measure", done := done + 1, total)
    ranked = _ranked(tried)
    answer, better = decide([entry[2] for entry in tried], len(chosen))
    winner = None if better is None else next(entry for entry in ranked if entry.said == tried[better][0])
    best = tried[better] if better is not None and (answer == "beaten" or not declared.is_declared) else tried[0]
    shaped = [(first, best[1], best[2])]
    for said, geometry in geometric[1:]:
        preprocess = best[1].model_copy(update={"geometry": geometry})
        images = _stacked(read, chosen, geometry)
        shaped.append((said, preprocess, losses(network.taking(preprocess), images, labels, match)))
        progress("measure", done := done + 1, total)
    shape_answer, shape = decide([entry[2] for entry in shaped], len(chosen))
    places = _ranked(shaped)
    suggestion = None
    if shape_answer == "beaten" and shape is not None:
        suggestion = next(entry for entry in places if entry.said == shaped[shape][0])
    by: Literal["head", "neighbours"] = "head" if match is not None else "neighbours"
    return Proof(len(chosen), by, ranked, answer, winner, places if with_geometry else (), suggestion)


def losses(
    network: OnnxNetwork, images: NDArray[np.uint8], labels: NDArray[np.int64], match: ClassMatch | None
) -> Floats:
    """(n,) the negative log-likelihood of each image's own class."""
    recipe = default_recipe(network)
    found = []
    for start in range(0, len(images), BATCH):
        names = () if match is not None else recipe.layers
        logits, seen = network.activations(images[start : start + BATCH], names)
        if match is not None:
            assert logits is not None
            found.append(match.log_probabilities(logits))
        else:
            found.append(keys_of(seen, network.layers(), recipe))
    rows = np.concatenate(found)
    if match is not None:
        own = rows[np.arange(len(labels)), labels]
        return np.asarray(-np.log(np.exp(own) * (1 - _FLOOR) + _FLOOR), np.float64)
    return neighbour_losses(rows, labels)


def neighbour_losses(keys: Floats, labels: NDArray[np.int64]) -> Floats:
    """(n,) of the vote of all the other images, at the theta that makes their mean least."""
    similar = (keys @ keys.T).astype(np.float64)
    np.fill_diagonal(similar, -np.inf)
    same = labels[:, None] == labels[None, :]
    tried = []
    for theta in THETAS:
        weights = np.exp(theta * (similar - similar.max(axis=1, keepdims=True)))
        own = (weights * same).sum(axis=1) / weights.sum(axis=1)
        tried.append(-np.log(own * (1 - _FLOOR) + _FLOOR))
    return np.asarray(min(tried, key=np.mean), np.float64)


def decide(losses: Sequence[Floats], images: int) -> tuple[Answer, int | None]:
    """What the losses (n,) of candidates say of the first one; and which has the least, None where the first has."""
    means = [float(np.mean(loss)) for loss in losses]
    best = int(np.argmin(means))
    if images < FEWEST:
        return "cannot tell", best or None
    if best:
        is_clear = _lead(losses[0], losses[best]) > CLEARLY and means[0] - means[best] > MATTERS
        return ("beaten" if is_clear else "cannot tell"), best
    rivals = [_lead(loss, losses[0]) for loss in losses[1:]]
    return ("confirmed" if not rivals or min(rivals) > CONFIRMED else "cannot tell"), None


def _lead(worse: Floats, better: Floats) -> float:
    """Standard errors by which the mean of the paired differences is above 0."""
    difference = worse - better
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return float(difference.mean()) / max(error, 1e-12) if difference.any() else 0.0


def _ranked(tried: Sequence[tuple[str, Preprocess, Floats]]) -> tuple[Tried, ...]:
    first = tried[0][2]
    made = [Tried(said, what, float(np.mean(loss)), _lead(loss, first)) for said, what, loss in tried]
    return (made[0], *sorted(made[1:], key=lambda entry: entry.nll))


def _stacked(read: Read, chosen: Sequence[int], geometry: Geometry) -> NDArray[np.uint8]:
    return np.stack([read(index, geometry) for index in chosen])

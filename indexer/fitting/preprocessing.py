"""Preprocessing, measured: which arithmetic and geometry labelled images speak for (``evidence`` says how they do).

What is declared is beaten where another one is better by more than chance allows. Candidates race: all on the first
images, those that are still in it on more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.fitting.evidence import BATCH, Labels, head_losses, softmax
from secondlook.indexer.fitting.race import MOST, Race, Racer, Read, See, ranked, see_all
from secondlook.indexer.fitting.views import Choice, others
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic
from secondlook.model.networks.proof import PreprocessProof


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
            if all(differ(made, other) for _, other in found):
                said = said if made.channels == "RGB" or said.startswith("declared") else f"BGR, {said}"
                found.append((said, made))
    return found


def differ(one: Arithmetic, other: Arithmetic) -> bool:
    """Whether what two give a network is more than a fiftieth of its spread apart."""
    if one.channels != other.channels:
        return True
    (a, b), (c, d) = one.factors, other.factors
    spread = 255 * np.maximum(np.abs(a), np.abs(c))
    return bool((np.maximum(np.abs(b - d), np.abs(255 * (a - c) + b - d)) > 0.02 * spread).any())


def measure(
    network: OnnxNetwork,
    read: Read,
    chosen: Sequence[int],
    labels: Labels,
    match: ClassMatch | None,
    progress: Progress = silent,
    *,
    choice: Choice | None = None,
    see: See = see_all,
) -> PreprocessProof:
    """Measure what a network's preprocessing says on the images ``chosen`` (labels (n,) are theirs), MOST at most.

    ``read`` gives an image (height,width,3) by its number and a geometry; threads call it. ``see`` runs the network, or
    knows what it gave. With a ``choice``, the
    geometry is free: that is for networks whose logits are not used. Of what is declared as certain no other geometry
    is tried, as none would be taken or suggested.
    """
    order = np.random.default_rng(0).permutation(len(chosen))[:MOST]
    images = [chosen[i] for i in order], labels[order]
    race = Race(network, read, *images, match, progress, see=see)
    declared = network.preprocess
    first = "declared" if declared.is_declared else "assumed"
    rest = [] if declared.is_published else candidates(declared.arithmetic)[1:]
    names = [(first, declared.arithmetic), *rest]
    rivals = [Racer(said, network, declared.model_copy(update={"arithmetic": made})) for said, made in names]
    answer, best = race.run(rivals)
    if not rest:
        answer = "cannot tell"
    arithmetic = ranked(rivals)
    better = next((entry for entry in arithmetic if best and entry.said == rivals[best].said), None)
    proof = PreprocessProof(images=race.asked, by=race.by, answer=answer, arithmetic=arithmetic, better=better)
    winner = rivals[best if answer == "beaten" or not declared.is_declared else 0]
    if choice is not None:
        race = Race(network, read, *images, None, progress, keys_alone=True, see=see)
        shaped, taken = choice.make(race, (rivals[0] if declared.is_certain else winner).again(first))
        asked = max(race.asked, proof.images)
        return proof.model_copy(update={"images": asked, "geometry": shaped, "choice": taken})
    if declared.is_certain:
        return proof
    shapes = [winner.again(first), *others(winner)]
    shape_answer, shape = race.run(shapes)
    suggestion = shapes[shape].tried(shapes[0]) if shape_answer == "beaten" else None
    return proof.model_copy(update={"images": race.asked, "geometry": ranked(shapes), "suggestion": suggestion})


def losses(network: OnnxNetwork, images: NDArray[np.uint8], labels: Labels, match: ClassMatch) -> Floats:
    """(n,) the head's negative log-likelihood of each image's own class."""
    found = [network.activations(images[start : start + BATCH]).logits for start in range(0, len(images), BATCH)]
    return head_losses(softmax(np.concatenate([logits for logits in found if logits is not None])), labels, match)

"""Preprocessing, measured: which arithmetic and geometry labelled images speak for (``evidence`` says how they do).

What is declared is beaten where another one is better by more than chance allows. Candidates race: all on the first
images, those that are still in it on more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.fitting.evidence import BATCH, Labels, Seen, head_losses, judges, lead, see, softmax, surprise
from secondlook.indexer.progress import Progress, silent
from secondlook.model.cache import Floats
from secondlook.model.images import Geometry
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Arithmetic, Preprocess
from secondlook.model.networks.proof import FEWEST, Answer, Judge, PreprocessProof, Tried

Read = Callable[[int, Geometry], "NDArray[np.uint8]"]

FIRST = 50
"""On so many all candidates are tried, then on twice as many those that are left, and so on."""
MOST = 400
"""Images that are enough: more are not asked."""
CLEARLY = 3.0
"""Standard errors by which another preprocessing has to be better than what is declared to beat it, or than a candidate
to leave it behind."""
CLEARLY_ALONE = 3.5
"""The same where neighbours alone are asked: their votes share images, which makes chance larger than it looks."""
MATTERS = 0.01
"""Nats by which it has to be better too: where images are told apart easily, certain differences are of no weight."""
CONFIRMED = 2.0
"""The same, for what is declared to be confirmed against the best of the others."""
SURE = 5.0
"""The same, after which no more images are asked."""


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


def geometries(declared: Geometry) -> list[tuple[str, Geometry]]:
    """The declared geometry, and others of the same size."""
    same = replace(declared, rule="crop", crop_share=1.0, fill=(0, 0, 0))
    found = [("declared", declared)]
    for said, made in (
        ("crop .875", replace(same, crop_share=0.875)),
        ("crop", same),
        ("squash", replace(same, rule="squash")),
        ("pad", replace(same, rule="pad")),
    ):
        if (made.rule, made.scaled) != (declared.rule, declared.scaled):
            found.append((said, made))
    return found


def measure(
    network: OnnxNetwork,
    read: Read,
    chosen: Sequence[int],
    labels: Labels,
    match: ClassMatch | None,
    progress: Progress = silent,
    *,
    with_geometry: bool = True,
) -> PreprocessProof:
    """Measure what a network's preprocessing says on the images ``chosen`` (labels (n,) are theirs), MOST at most.

    ``read`` gives an image (height,width,3) by its number and a geometry; it is asked once for each pair.
    """
    order = np.random.default_rng(0).permutation(len(chosen))[:MOST]
    race = _Race(network, read, [chosen[i] for i in order], labels[order], match, progress)
    declared = network.preprocess
    first = "declared" if declared.is_declared else "assumed"
    others = [] if declared.is_published else candidates(declared.arithmetic)[1:]
    names = [(first, declared.arithmetic), *others]
    rivals = [_Racer(said, network, declared.model_copy(update={"arithmetic": made})) for said, made in names]
    answer, best = race.run(rivals)
    if not others:
        answer = "cannot tell"
    arithmetic = _ranked(rivals)
    better = next((entry for entry in arithmetic if best and entry.said == rivals[best].said), None)
    winner = rivals[best if answer == "beaten" or not declared.is_declared else 0]
    shaped, suggestion = [], None
    if with_geometry:
        shaped = [winner.again(first)]
        for said, geometry in geometries(declared.geometry)[1:]:
            shaped.append(_Racer(said, network, winner.preprocess.model_copy(update={"geometry": geometry})))
        shape_answer, shape = race.run(shaped)
        if shape_answer == "beaten":
            suggestion = shaped[shape].tried()
    return PreprocessProof(
        images=race.asked,
        by=race.by,
        answer=answer,
        arithmetic=arithmetic,
        better=better,
        geometry=_ranked(shaped) if shaped else (),
        suggestion=suggestion,
    )


def decide(losses: Sequence[Floats], images: int, clearly: float = CLEARLY) -> tuple[Answer, int]:
    """What the losses (n,) of candidates say of the first one; and which has the least."""
    best = int(np.argmin([np.mean(loss) for loss in losses]))
    if images < FEWEST:
        return "cannot tell", best
    if best:
        gain = float(np.mean(losses[0]) - np.mean(losses[best]))
        is_beaten = gain > MATTERS and lead(losses[0], losses[best]) > clearly
        return ("beaten" if is_beaten else "cannot tell"), best
    rivals = [lead(loss, losses[0]) for loss in losses[1:]]
    return ("confirmed" if not rivals or min(rivals) > CONFIRMED else "cannot tell"), 0


def losses(network: OnnxNetwork, images: NDArray[np.uint8], labels: Labels, match: ClassMatch) -> Floats:
    """(n,) the head's negative log-likelihood of each image's own class."""
    found = [network.activations(images[start : start + BATCH]).logits for start in range(0, len(images), BATCH)]
    return head_losses(softmax(np.concatenate([logits for logits in found if logits is not None])), labels, match)


def clearly_by(asked: tuple[Judge, ...]) -> float:
    """Standard errors that are enough."""
    return CLEARLY_ALONE if asked == ("neighbours",) else CLEARLY


class _Racer:
    """One candidate, and what the network gave for it so far."""

    def __init__(self, said: str, network: OnnxNetwork, preprocess: Preprocess, seen: Seen | None = None) -> None:
        self.said, self.preprocess, self.seen = said, preprocess, seen
        self.network = network.taking(preprocess)
        self.nll = self.behind = 0.0
        self.images = 0
        """On how many it was held to the others."""

    def again(self, said: str) -> _Racer:
        """The same for another race."""
        return _Racer(said, self.network, self.preprocess, self.seen)

    def tried(self) -> Tried:
        """As data."""
        nll, behind = round(self.nll, 4), round(float(np.clip(self.behind, -99, 99)), 2)
        return Tried(said=self.said, preprocess=self.preprocess, nll=nll, behind=behind, images=self.images)


class _Race:
    """The images on which candidates are held to each other."""

    def __init__(
        self,
        network: OnnxNetwork,
        read: Read,
        chosen: Sequence[int],
        labels: Labels,
        match: ClassMatch | None,
        progress: Progress,
    ) -> None:
        self._recipe = default_recipe(network)
        self._read, self._chosen, self._labels, self._match = read, chosen, labels, match
        self._progress, self.asked = progress, 0
        self.by = judges(match, has_head=network.classes is not None)
        self.clearly = clearly_by(self.by)
        self._shared, self._decoded = network.preprocess.geometry, list[NDArray[np.uint8]]()

    def run(self, racers: Sequence[_Racer]) -> tuple[Answer, int]:
        """Hold candidates to the first one: the answer, and the place of the best."""
        left, end = list(range(len(racers))), 0
        while True:
            end = min(max(FIRST, 2 * end), len(self._chosen))
            for done, place in enumerate(left, 1):
                self._extend(racers[place], end)
                self._progress("measure", done, len(left))
            self.asked = max(self.asked, end)
            found = [self._surprise(racers[place], end) for place in left]
            for place, loss in zip(left, found, strict=True):
                racer = racers[place]
                racer.nll, racer.behind, racer.images = float(loss.mean()), lead(loss, found[0]), end
            answer, best = decide(found, end, self.clearly)
            if end == len(self._chosen):
                return answer, left[best]
            is_left = [place == 0 or lead(loss, found[best]) <= self.clearly for place, loss in enumerate(found)]
            winner = left[best]
            for place, stays in zip(left, is_left, strict=True):
                if not stays:
                    racers[place].seen = None
            left = [place for place in left if racers[place].seen is not None]
            if left == [0] or (set(left) == {0, winner} and lead(found[0], found[best]) > SURE):
                return ("beaten" if winner else "confirmed"), winner

    def _extend(self, racer: _Racer, end: int) -> None:
        start = 0 if racer.seen is None else len(racer.seen.keys)
        if start < end:
            images = np.stack(self._images(racer.preprocess.geometry, start, end))
            more = see(racer.network, images, self._recipe)
            racer.seen = more if racer.seen is None else racer.seen.and_(more)

    def _images(self, geometry: Geometry, start: int, end: int) -> list[NDArray[np.uint8]]:
        if geometry != self._shared:
            return [self._read(index, geometry) for index in self._chosen[start:end]]
        self._decoded += [self._read(index, geometry) for index in self._chosen[len(self._decoded) : end]]
        return self._decoded[start:end]

    def _surprise(self, racer: _Racer, end: int) -> Floats:
        assert racer.seen is not None
        return surprise(racer.seen.of(slice(end)), self._labels[:end], self._match)


def _ranked(racers: Sequence[_Racer]) -> tuple[Tried, ...]:
    """The first, then those that came furthest, best first."""
    others = sorted((racer.tried() for racer in racers[1:]), key=lambda entry: (-entry.images, entry.nll))
    return racers[0].tried(), *others

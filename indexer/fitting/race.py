"""Candidates for a network's preprocessing race: all on the first images, those that are still in it on more."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.fitting.evidence import Labels, Seen, judges, lead, see, surprise
from secondlook.indexer.progress import Progress
from secondlook.model.cache import Floats
from secondlook.model.images import Geometry
from secondlook.model.networks.classes import ClassMatch
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.proof import FEWEST, Answer, Judge, Tried

Read = Callable[[int, Geometry], "NDArray[np.uint8]"]
Decode = Callable[[Sequence[int]], "list[NDArray[np.uint8]]"]

FIRST = 50
"""On so many all candidates are tried, then on twice as many those that are left, and so on."""
MOST = 600
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


class Need(NamedTuple):
    """By what a candidate has to be better than the first one to beat it."""

    clearly: float
    """Standard errors."""
    matters: float = MATTERS
    """Nats."""
    images: int = FEWEST
    """On at least so many images."""


def decide(losses: Sequence[Floats], images: int, need: Need) -> tuple[Answer, int]:
    """What the losses (n,) of candidates say of the first one; and which has the least."""
    best = int(np.argmin([np.mean(loss) for loss in losses]))
    if images < need.images:
        return "cannot tell", best
    if best:
        gain = float(np.mean(losses[0]) - np.mean(losses[best]))
        is_beaten = gain > need.matters and lead(losses[0], losses[best]) > need.clearly
        return ("beaten" if is_beaten else "cannot tell"), best
    rivals = [lead(loss, losses[0]) for loss in losses[1:]]
    return ("confirmed" if not rivals or min(rivals) > CONFIRMED else "cannot tell"), 0


def clearly_by(asked: tuple[Judge, ...]) -> float:
    """Standard errors that are enough."""
    return CLEARLY_ALONE if asked == ("neighbours",) else CLEARLY


class See(Protocol):
    """Gives what a network gives for images by their numbers."""

    def __call__(self, network: OnnxNetwork, numbers: Sequence[int], decode: Decode, *, keys_alone: bool) -> Seen:
        """Run the network on images that are decoded, or know what it gave."""


def see_all(network: OnnxNetwork, numbers: Sequence[int], decode: Decode, *, keys_alone: bool) -> Seen:
    """Run the network on all of them."""
    return see(network, np.stack(decode(numbers)), default_recipe(network))


class Racer:
    """One candidate, and what the network gave for it so far."""

    def __init__(self, said: str, network: OnnxNetwork, preprocess: Preprocess) -> None:
        self.said, self.preprocess = said, preprocess
        self.network = network.taking(preprocess)
        self.seen: Seen | None = None
        self.nll = self.behind = 0.0
        self.images = 0
        """On how many it was held to the others."""

    def again(self, said: str) -> Racer:
        """The same under another name, for another race."""
        other = Racer(said, self.network, self.preprocess)
        other.seen = self.seen
        return other

    def tried(self, first: Racer) -> Tried:
        """As data, beside the first one."""
        return Tried(
            said=self.said,
            preprocess=self.preprocess,
            nll=round(self.nll, 4),
            behind=round(float(np.clip(self.behind, -99, 99)), 2),
            images=self.images,
            cost=round(self.preprocess.work / first.preprocess.work, 3),
        )


class Race:
    """Images (labels (n,) are theirs) on which candidates are held to each other; by their keys alone, where asked."""

    def __init__(
        self,
        network: OnnxNetwork,
        read: Read,
        chosen: Sequence[int],
        labels: Labels,
        match: ClassMatch | None,
        progress: Progress,
        *,
        keys_alone: bool = False,
        see: See = see_all,
    ) -> None:
        self._see = see
        self._read, self._chosen, self._labels, self._match = read, chosen, labels, match
        self._progress, self.asked = progress, 0
        self._keys_alone = keys_alone
        self.by = judges(match, has_head=network.classes is not None and not keys_alone)
        self.clearly = clearly_by(self.by)
        self._shared, self._decoded = network.preprocess.geometry, dict[int, NDArray[np.uint8]]()

    def run(self, racers: Sequence[Racer], need: Need | None = None, patience: float = np.inf) -> tuple[Answer, int]:
        """Hold candidates to the first one: the answer by what they ``need``, and the place of the best.

        Those that are ``patience`` standard errors worse than the first are given up.
        """
        need = need or Need(self.clearly)
        left, end = list(range(len(racers))), 0
        while True:
            end = min(max(FIRST, 2 * end), len(self._chosen))
            for done, place in enumerate(left, 1):
                self._extend(racers[place], end)
                self._progress("measure", done, len(left))
            self.asked = max(self.asked, end)
            found = [self._surprise(racers[place], end) for place in left]
            for place, loss in zip(left, found, strict=True):
                _note(racers[place], loss, found[0])
            answer, best = decide(found, end, need)
            if end == len(self._chosen):
                return answer, left[best]
            winner = left[best]
            left = [
                place
                for place, loss in zip(left, found, strict=True)
                if place == 0 or (lead(loss, found[best]) <= self.clearly and lead(loss, found[0]) <= patience)
            ]
            if left == [0] or (set(left) == {0, winner} and lead(found[0], found[best]) > SURE):
                return ("beaten" if winner else "confirmed"), winner

    def hold(self, first: Racer, racer: Racer, *, on_all: bool) -> None:
        """Hold one candidate to another that did not run beside it: on all images that either ran on, or on both's."""
        assert first.seen is not None
        assert racer.seen is not None
        end = (max if on_all else min)(len(first.seen.keys), len(racer.seen.keys))
        for one in (first, racer):
            self._extend(one, end)
        loss = self._surprise(first, end)
        _note(racer, self._surprise(racer, end), loss)
        if on_all:
            _note(first, loss, loss)

    def _extend(self, racer: Racer, end: int) -> None:
        start = 0 if racer.seen is None else len(racer.seen.keys)
        if start < end:
            geometry = racer.preprocess.geometry
            more = self._see(
                racer.network,
                self._chosen[start:end],
                lambda numbers: self._images(geometry, numbers),
                keys_alone=self._keys_alone,
            )
            racer.seen = more if racer.seen is None else racer.seen.and_(more)

    def _images(self, geometry: Geometry, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        decoded = self._decoded if geometry == self._shared else {}
        missing = [number for number in numbers if number not in decoded]
        if missing:
            with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as pool:
                decoded.update(
                    zip(missing, pool.map(lambda number: self._read(number, geometry), missing), strict=True)
                )
        return [decoded[number] for number in numbers]

    def _surprise(self, racer: Racer, end: int) -> Floats:
        assert racer.seen is not None
        seen = racer.seen.of(slice(end))
        return surprise(Seen(None, seen.keys) if self._keys_alone else seen, self._labels[:end], self._match)


def ranked(racers: Sequence[Racer]) -> tuple[Tried, ...]:
    """The first, then those that came furthest, best first."""
    tried = [racer.tried(racers[0]) for racer in racers]
    return tried[0], *sorted(tried[1:], key=lambda entry: (-entry.images, entry.nll))


def _note(racer: Racer, loss: Floats, first: Floats) -> None:
    racer.nll, racer.behind, racer.images = float(loss.mean()), lead(loss, first), len(loss)

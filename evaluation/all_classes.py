"""What a network says among all its classes, also those that a bundle has not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints, softmax
from secondlook.model.networks.engines import OnnxEngine
from secondlook.model.scoring import ece_of


class AllClasses:
    """Answers of a network with a bundle's encoder, image by image; ``groups`` are the manifest's."""

    def __init__(self, engine: OnnxEngine, groups: Sequence[Sequence[int]]) -> None:
        self._engine, self._groups = engine, groups
        self._place = np.full(engine.all_classes, -1)
        for label, group in enumerate(groups):
            self._place[list(group)] = label
        self._said: list[Ints] = []
        self._sure: list[Floats] = []
        self._own: list[Floats] = []

    def see(self, images: NDArray[np.uint8]) -> None:
        """Ask it of images (B,H,W,3)."""
        p = softmax(self._engine.all_logits(images))
        self._said.append(self._place[p.argmax(axis=1)])
        self._sure.append(p.max(axis=1))
        self._own.append(np.stack([p[:, list(group)].sum(axis=1) for group in self._groups], axis=1))

    def wrong(self, labels: Ints) -> NDArray[np.float64]:
        """(N,) 1 where the most probable of all classes does not mean the label."""
        return np.asarray(np.concatenate(self._said) != labels, np.float64)

    def quality(self, labels: Ints) -> tuple[float, float, float]:
        """Error and ECE in percent, NLL in nats; labels (N,) that the network does not know have no probability."""
        own, wrong = np.concatenate(self._own), self.wrong(labels)
        known = np.flatnonzero(labels < own.shape[1])
        p = np.zeros(len(labels))
        p[known] = own[known, labels[known]]
        nll = float(-np.log(np.maximum(p, 1e-12)).mean())
        return 100.0 * float(wrong.mean()), ece_of(np.concatenate(self._sure), wrong == 0), nll

"""What is said of images before anybody labels them: by the network, by the cache, and how near the known ones are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.cache import Floats, Ints

AT_ONCE = 256
"""Images that are answered at once: answers are large where there are many classes."""
NONE = -1
"""In place of a class, where nothing is said."""


class Opinions(NamedTuple):
    """Of n images."""

    first: Ints
    """(n,) the most probable class."""
    second: Ints
    """(n,) the next one."""
    probabilities: Floats
    """(n,2) of these."""
    network: Ints
    """(n,) the class that the network alone says."""
    cache: Ints
    """(n,) and the cache alone."""
    similarity: Floats
    """(n,) to the nearest entry; -inf = there is none."""
    is_novel: NDArray[np.bool_]
    """(n,) whether it is unlike all that is known; not where that is not calibrated."""

    @property
    def margins(self) -> Floats:
        """(n,) by how much the first class is more probable than the second."""
        ahead: Floats = self.probabilities[:, 0] - self.probabilities[:, 1]
        return ahead

    @property
    def tell_apart(self) -> bool:
        """Whether they are of two classes at least: of one alone, or none, there is nothing to doubt."""
        return bool((self.second != NONE).any())


def opinions_of(predictor: Predictor, keys: Floats, logits: Floats) -> Opinions:
    """What a predictor says of images with keys (n,D) and logits (n,C), C = 0 where the network has no head.

    Raises:
        StoreUnreachableError: the store does not answer.
    """
    count = len(keys)
    first, second, network, cache = (np.full(count, NONE, np.int64) for _ in range(4))
    nearest = np.full(count, -np.inf, np.float32)
    found = Opinions(first, second, np.zeros((count, 2), np.float32), network, cache, nearest, np.zeros(count, bool))
    for start in range(0, count, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        for row, answer in enumerate(predictor.of_keys(logits[some], keys[some], neighbors=1), start):
            _note(found, row, answer)
    return found


def _note(found: Opinions, row: int, answer: Answer) -> None:
    found.is_novel[row] = bool(answer.is_novel)
    if len(answer.similarities):
        found.similarity[row] = answer.similarities[0]
    if answer.has_network:
        found.network[row] = answer.network.argmax()
    if answer.has_cache:
        found.cache[row] = answer.cache.argmax()
    if not answer.has_network and not answer.has_cache:
        return
    two = np.argsort(-answer.mixed, kind="stable")[:2]
    found.first[row] = two[0]
    found.probabilities[row, : len(two)] = answer.mixed[two]
    if len(two) > 1:
        found.second[row] = two[1]

"""Whether an entry is the very picture asked about: nearer than a held-out image ever was to another picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.manifest import SameAs
from secondlook.model.stores.added_keys import FIRST_ID
from secondlook.model.stores.store import Neighbors

NEAREST = 8
"""Nearest entries that are looked at."""

TIE = 1e-5
"""Similarities that differ by less are of one picture cached twice: rounding makes some 1e-6."""


class SamePictures:
    """Finds entries that are the same picture.

    A key kept in fewer bits may be as far from its own picture as others are, so it is held to a limit of its own.
    Taught entries' keys are kept as they are, beside the store.
    """

    def __init__(self, limits: SameAs | None, exact: Mapping[int, Floats]) -> None:
        """Take a bundle's limits (None = nothing is the same picture) and the exact keys of some of its entries."""
        self._limits, self._exact = limits, exact

    def find(self, keys: Floats, hits: Neighbors) -> Ints:
        """Places (B,) of the entry that is the same picture among the neighbours of keys (B,D); -1 = none is.

        Of several, the newest: the label that was given last decides.
        """
        nothing = np.full(len(keys), -1, np.int64)
        if self._limits is None or not hits.ids.shape[1]:
            return nothing
        ids, similarities = hits.ids[:, :NEAREST], hits.similarities[:, :NEAREST].copy()
        is_exact: NDArray[np.bool_] = ids >= FIRST_ID
        if self._exact:
            for row, place in np.argwhere((ids >= 0) & ~is_exact):
                if (key := self._exact.get(int(ids[row, place]))) is not None:
                    similarities[row, place] = key @ keys[row]
                    is_exact[row, place] = True
        limits = np.where(is_exact, self._limits.exact, self._limits.stored)
        # Keys kept in fewer bits may be longer than 1.
        near = np.where((ids >= 0) & (similarities > limits), np.minimum(similarities, 1.0), -np.inf)
        highest = near.max(axis=1, keepdims=True)
        places = np.where(near >= highest - TIE, ids, -1).argmax(axis=1)
        return np.where(np.isneginf(highest[:, 0]), nothing, places)

"""The reduction of keys: an uncentred PCA, fitted on features that come batch by batch, without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import RecipeError

_WHOLE = 2048
"""Features up to which all directions are computed."""
_SPARE, _ROUNDS = 32, 12


class Covariance:
    """The uncentred covariance of unit features, in float64: 8 bytes x features x features, however many images."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self._sum = np.zeros((features, features))

    def add(self, features: Floats) -> None:
        """A batch (n,F)."""
        batch = features.astype(np.float64)
        self._sum += batch.T @ batch
        self.count += len(features)

    def projection(self, numbers: int, seed: int = 0) -> NDArray[np.float16]:
        """(F,numbers) float16, the directions of largest variance about 0, largest first.

        Raises:
            RecipeError: fewer features, or fewer images, than numbers asked for.
        """
        most = min(self.count, len(self._sum))
        if numbers > most:
            raise RecipeError(
                f"a key of {numbers} numbers cannot be fitted on {self.count:,} images with {len(self._sum):,} "
                f"features: reduce to at most {most:,}"
            )
        directions = self._all() if len(self._sum) <= _WHOLE else self._largest(numbers, seed)
        directions = directions[:, :numbers]
        # Which of two opposite directions is no matter to keys; this one is the same on all machines.
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(numbers)]
        return np.asarray(directions * np.sign(largest), np.float16)

    def _all(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.eigh(self._sum)[1][:, ::-1], np.float64)

    def _largest(self, numbers: int, seed: int) -> NDArray[np.float64]:
        """Subspace iteration with a Rayleigh-Ritz step (Halko, Martinsson and Tropp, 2011, algorithm 4.4)."""
        wide = min(numbers + _SPARE, len(self._sum))
        basis = np.random.default_rng(seed).standard_normal((len(self._sum), wide))
        for _ in range(_ROUNDS):
            basis = np.linalg.qr(self._sum @ basis)[0]
        small = basis.T @ self._sum @ basis
        return np.asarray(basis @ np.linalg.eigh((small + small.T) / 2)[1][:, ::-1], np.float64)

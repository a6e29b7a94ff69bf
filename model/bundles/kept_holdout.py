"""The holdout that a bundle keeps, to be calibrated anew as entries are added, and that calibration."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import BundleError
from secondlook.model.manifest import Calibration

HOLDOUT = "holdout.npz"


@dataclass
class Calibrated:
    """A bundle's calibration, and the newest change of the journal that is in it."""

    calibration: Calibration | None
    change: int = 0


@dataclass(frozen=True)
class KeptHoldout:
    """Labelled images that neither the network nor the entries voting on them have seen."""

    logits: Floats
    """(n,C) of the network."""
    keys: Floats
    """(n,D); kept in float16, which moves a similarity by less than 1e-3."""
    labels: Ints
    """(n,)."""
    own: Ints
    """(n,) the entry of each in the bundle; -1 = none."""
    out: Ints
    """(m,) entries that take no part: those of these images and of their copies."""
    same: Ints | None = None
    """(n,m) where each is asked of all others: the entries of its picture, which take no part for it alone; -1 = none.
    """
    evidence: NDArray[np.float64] | None = None
    """(n,) then: what else than neighbours speaks for each one's being known, as without it."""

    def part(self, rows: NDArray[np.bool_]) -> KeptHoldout:
        """Some of the images."""
        return KeptHoldout(
            self.logits[rows],
            self.keys[rows],
            self.labels[rows],
            self.own[rows],
            self.out,
            None if self.same is None else self.same[rows],
            None if self.evidence is None else self.evidence[rows],
        )

    def write(self, path: Path) -> None:
        """Write the file (not atomic: a bundle's writer sees to that)."""
        arrays: dict[str, NDArray[Any]] = {
            "logits": self.logits.astype(np.float32),
            "keys": self.keys.astype(np.float16),
            "labels": self.labels.astype(np.int32),
            "own": self.own.astype(np.int64),
            "out": self.out.astype(np.int64),
        }
        arrays |= {} if self.same is None else {"same": self.same.astype(np.int64)}
        arrays |= {} if self.evidence is None else {"evidence": self.evidence}
        np.savez(path, **arrays)  # type: ignore[arg-type] # numpy's own flag is among the keywords

    @classmethod
    def read(cls, path: Path) -> KeptHoldout:
        """Read it.

        Raises:
            BundleError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ("logits", "keys", "labels", "own", "out")}
                same, evidence = arrays.get("same"), arrays.get("evidence")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path.parent.name}/{path.name} is not a holdout") from error
        labels, own, out = (found[name].astype(np.int64) for name in ("labels", "own", "out"))
        return cls(found["logits"], found["keys"].astype(np.float32), labels, own, out, same, evidence)

"""What cached images look like, and those that parameters were fitted on: kept in a bundle to find copies by."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.model.bundles.kept_holdout import HOLDOUT, KeptHoldout
from secondlook.model.errors import BundleError
from secondlook.model.manifest import HoldoutInfo, Manifest

LOOKS = "looks.npz"


@dataclass(frozen=True)
class CachedLooks:
    """The looks of a bundle's images."""

    looks: Looks
    """Of the images that are cached."""
    rows: NDArray[np.int64]
    """(N,) which of those each entry shows, or its mirror image."""
    fitted: Looks | None
    """Of the images that parameters were fitted on; None where they were given."""

    def fitted_on(self, entries: NDArray[np.int64] | None) -> CachedLooks:
        """The same, where parameters were fitted on some of the entries; None = on no entries."""
        return self if entries is None else replace(self, fitted=self.looks[self.rows[entries]])

    def write(self, path: Path) -> None:
        """Write the file (not atomic: a bundle's writer sees to that)."""
        fitted = self.fitted or Looks.joined([])
        np.savez_compressed(
            path,
            rows=self.rows.astype(np.int32),
            **{name: getattr(self.looks, name) for name in _FIELDS},
            **{f"fitted_{name}": getattr(fitted, name) for name in _FIELDS},
        )

    @classmethod
    def read(cls, path: Path) -> CachedLooks | None:
        """Read it; None where an older bundle has none.

        Raises:
            BundleError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                looks, fitted = (Looks(*(arrays[kind + name] for name in _FIELDS)) for kind in ("", "fitted_"))
                return cls(looks, arrays["rows"].astype(np.int64), fitted)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path.parent.name}/{path.name} does not hold the looks of images") from error


@dataclass(frozen=True)
class GivenHoldout:
    """A holdout that was given to a bundle, as its encoder saw it: a rebuild has it still."""

    info: HoldoutInfo
    classes: tuple[str, ...]
    held: KeptHoldout
    looks: Looks


def read_given_holdout(folder: Path, manifest: Manifest) -> GivenHoldout | None:
    """The honest holdout that a bundle was given; None where it has none, or a part of its own dataset.

    Raises:
        BundleError: a file of it is damaged.
    """
    info = manifest.holdout
    if info is None or not info.honest or not {HOLDOUT, LOOKS} <= manifest.files.keys():
        return None
    held, looks = KeptHoldout.read(folder / HOLDOUT), CachedLooks.read(folder / LOOKS)
    if (held.own >= 0).any() or looks is None or looks.fitted is None or len(looks.fitted) != len(held.labels):
        return None
    return GivenHoldout(info, manifest.classes, held, looks.fitted)


_FIELDS = ("digests", "luma", "colours")

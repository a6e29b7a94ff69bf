"""The bundle that comes with secondlook, and the root that starts with a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from secondlook.model.bundles.root import (
    CURRENT,
    PREVIOUS,
    activate,
    active_generation,
    draft,
    generations,
    publish,
    require_root,
)
from secondlook.model.errors import BundleError


def default_root() -> Path:
    """Where the bundle that comes with secondlook lies."""
    return Path(__file__).parents[1] / "default"


def seed(root: Path) -> None:
    """Copy the default bundle into a root that has no bundles yet, so that a new volume starts with an answer.

    Raises:
        BundleError: the root cannot be written, or has lost its CURRENT: what it served is not to be guessed.
    """
    require_root(root)
    if (root / CURRENT).exists() or (root / PREVIOUS).exists():
        return
    generation = active_generation(default_root())
    found = generations(root)
    if found not in ([], [generation]):
        raise BundleError(f"{root} has bundles but no {CURRENT}: activate one of them (secondlook bundles activate)")
    if not found:
        with draft(root) as folder:
            try:
                shutil.copytree(default_root() / generation, folder, dirs_exist_ok=True)
            except OSError as error:  # of one file, or of all that failed
                why = error.strerror or "; ".join(sorted({str(one[2]) for one in error.args[0]}))
                raise BundleError(f"the default bundle cannot be copied to {root}: {why}") from error
            publish(root, folder, generation)
    activate(root, generation)

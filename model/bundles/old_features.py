"""What was embedded with encoders of which a root has no bundle any more is removed with the last one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from secondlook.model.bundles.files import FEATURES, features_of, read_manifest
from secondlook.model.bundles.locks import lock_folder
from secondlook.model.errors import BundleError

FORGOTTEN = 7 * 24 * 3600
"""Seconds after which what no bundle was made of is nothing that somebody goes on with."""


def features_in(root: Path, generations: Iterable[str]) -> set[str]:
    """The names of what some bundles' encoders embedded.

    Raises:
        BundleError: a manifest is damaged.
    """
    return {name for one in generations if (name := features_of(read_manifest(root, one))) is not None}


def remove_features(root: Path, generations: Iterable[str], gone: set[str]) -> None:
    """Remove what was embedded with encoders that no generation has: of those in ``gone``, and long unused ones.

    Nothing that a process uses is removed, and nothing at all where that cannot be told.
    """
    try:
        used = features_in(root, generations)
        folders = [path for path in (root / FEATURES).iterdir() if path.name not in used and path.is_dir()]
    except (BundleError, OSError):
        return
    for folder in folders:
        with suppress(OSError):  # in use, gone, or on a file system without locks
            if folder.name in gone or time.time() - folder.stat().st_mtime > FORGOTTEN:
                lock = lock_folder(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)

"""Publishes added entries to replicas through Milvus, and drops the collections of removed generations there."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from secondlook.model.added.milvus_mirror import Mirror
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.locks import lock_folder
from secondlook.model.bundles.milvus_generations import Sweeper
from secondlook.model.stores.milvus_server import Milvus

logger = logging.getLogger(__name__)

LOCK = ".primary"
"""A folder in the root, locked by the one of its processes that writes to Milvus."""


def mirror_of(milvus: Milvus, overlay: Overlay) -> Mirror:
    """Where an overlay is in Milvus."""
    manifest = overlay.bundle.manifest
    return Mirror(milvus, manifest.generation, manifest.store.dim)


class Primary:
    """The one process of a cluster that writes to Milvus what its journal says; of several workers, one at a time."""

    def __init__(self, milvus: Milvus, root: Path) -> None:
        self._milvus, self._root = milvus, root
        self._lock: int | None = None
        self._published: Overlay | None = None
        self._sweeper = Sweeper(milvus, root)

    def publish(self, overlay: Overlay) -> None:
        """Have replicas see an overlay, where this process is the one to write.

        Raises:
            StoreUnreachableError, StoreError: Milvus does not answer, or refuses.
        """
        if overlay.bundle.manifest.store.kind != "milvus" or not self._is_one():
            return
        mirror, before = mirror_of(self._milvus, overlay), self._published
        if before is None or before.bundle is not overlay.bundle:
            before = mirror.replayed(Overlay(overlay.bundle))
        if (before.change, before.token) != (overlay.change, overlay.token):
            mirror.publish(overlay, before)
        self._published = overlay

    def sweep(self) -> None:
        """Drop the collections of generations that were removed a while ago, where this process is the one to do so.

        Raises:
            StoreUnreachableError, StoreError: Milvus does not answer, or refuses.
        """
        if self._is_one():
            self._sweeper.sweep()

    def close(self) -> None:
        """Let another process take over."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_one(self) -> bool:
        if self._lock is None:
            with suppress(OSError):
                folder = self._root / LOCK
                folder.mkdir(exist_ok=True)
                self._lock = lock_folder(folder)
        return self._lock is not None

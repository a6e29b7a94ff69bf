"""The cache that a server of a root would answer with."""

from __future__ import annotations

from pathlib import Path

from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.journal import Journal


def open_answering(root: Path | None, generation: str | None) -> tuple[Overlay, Journal]:
    """A generation (None = the active one) of a root (None = the default bundle's) with what was taught since.

    Images that no server has embedded yet are embedded now.

    Raises:
        BundleError: there is no such bundle, or it is damaged. JournalError: what was taught cannot be read.
    """
    bundles = root or default_root()
    bundle, journal = open_bundle(bundles, generation, even_empty=True), Journal(bundles)
    return replayed(Overlay(bundle), journal), journal

"""The encoder of a bundle, for commands that ask about photos in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from secondlook.commands.embed_files import Head
from secondlook.indexer.embedding.encoders import best_device
from secondlook.indexer.embedding.kept_features import KeptFeatures, keeping_of
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle, OpenEncoder, open_bundle, open_encoder
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import NETWORK, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import Geometry
from secondlook.model.journal import Journal
from secondlook.model.networks.engines import Engine


class Encoder(NamedTuple):
    """What makes keys, and where it is from."""

    engine: Engine
    geometry: Geometry
    kept: KeptFeatures
    """What is known of earlier runs, of an index or of this command."""
    said: Head
    """In files: the generation, or the network."""
    predictor: Predictor | None = None
    """Which has the entries to search."""


@contextmanager
def of_bundle(root: Path | None, generation: str | None, instead: str = "", *, searches: bool) -> Iterator[Encoder]:
    """A bundle's encoder, the active one's of a root, or the default one's; with its entries or without.

    Of the default one it is said that it is not for photos, and what to give in its place: --bundles, or ``instead``.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        JournalError: what was taught cannot be read.
    """
    folder = root or default_root()
    opened: Bundle | OpenEncoder
    predictor: Predictor | None
    if root is None:
        click.echo(
            "by the default bundle, which knows small pictures of 32 x 32 pixels: for photos, give --bundles"
            + (f", or {instead}" if instead else ""),
            err=True,
        )
    if searches:
        predictor = Predictor(open_bundle(folder, generation, even_empty=True))
        if root is not None:
            predictor = Predictor(predictor.bundle, replayed(predictor.overlay, Journal(folder)))
        opened = predictor.bundle
    else:
        predictor = None
        generation = generation or active_generation(folder)
        has_network = NETWORK in read_manifest(folder, generation).files
        opened = open_encoder(folder, generation, device=best_device() if has_network else "cpu", threads=0)
    manifest = opened.manifest
    said: Head = {"generation": manifest.generation, "network": manifest.network.name, "dim": opened.engine.dim}
    with keeping_of(folder, opened) as kept:
        yield Encoder(opened.engine, manifest.preprocess.geometry, kept, said, predictor)

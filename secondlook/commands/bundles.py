"""``secondlook bundles``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.options import bundles_option, json_option, print_json
from secondlook.model.bundles import root as roots
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import activate as make_active
from secondlook.model.errors import BundleError

LEFT_OUT: Any = {
    "network": {"all_classes"},
    "fit": {"error_percent", "nll"},
    "calibration": {"sets": {"ranks", "scores"}, "credibility": {"ranks", "scores"}},
}
generation_argument = click.argument("generation", required=False)


@click.group()
def bundles() -> None:
    """List, show, verify, activate and remove bundles."""


@bundles.command("list")
@bundles_option
@json_option
def list_(root: Path | None, as_json: bool) -> None:
    """List all generations, oldest first; the active one is starred."""
    root = root or default_root()
    active = roots.active_generation(root) if (root / "CURRENT").exists() else None
    for generation in roots.generations(root):
        try:
            manifest = read_manifest(root, generation)
            data, kept = manifest.dataset, manifest.store
            what = f"{data.name} {data.split}, {kept.count:,} entries of {kept.dim}, {manifest.network.name}"
        except BundleError as error:
            what = str(error)
        if as_json:
            print_json(generation=generation, active=generation == active, what=what)
        else:
            click.echo(f"{'*' if generation == active else ' '} {generation}  {what}")


@bundles.command()
@generation_argument
@bundles_option
def show(generation: str | None, root: Path | None) -> None:
    """Print a bundle's manifest (the active one's by default), as JSON; long lists left out."""
    root = root or default_root()
    manifest = read_manifest(root, generation or roots.active_generation(root))
    click.echo(manifest.model_dump_json(indent=1, exclude=LEFT_OUT))


@bundles.command()
@generation_argument
@bundles_option
def verify(generation: str | None, root: Path | None) -> None:
    """Check hashes, counts and keys of a bundle, and that its encoder answers."""
    bundle = open_bundle(root or default_root(), generation, even_empty=True)
    click.echo(f"{bundle.manifest.generation} is whole: {bundle.store.count:,} entries of {bundle.store.dim}")


@bundles.command()
@click.argument("generation")
@bundles_option
def activate(generation: str, root: Path | None) -> None:
    """Make a bundle the active one, after verifying it."""
    if root is None:
        raise click.UsageError("the default bundle stands alone: give --bundles")
    open_bundle(root, generation, even_empty=True)
    make_active(root, generation)
    click.echo(generation)


@bundles.command()
@click.argument("generation")
@bundles_option
def remove(generation: str, root: Path | None) -> None:
    """Delete a bundle that is neither active nor open in any process."""
    if root is None:
        raise click.UsageError("the default bundle stands alone: give --bundles")
    roots.remove(root, generation)
    click.echo(f"removed {generation}")

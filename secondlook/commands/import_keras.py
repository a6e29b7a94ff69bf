"""``secondlook import-keras``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import-keras")
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def import_keras(source: Path, out: Path) -> None:
    """Convert a Keras ResNet v1 (.h5) to OUT (.safetensors)."""
    from secondlook.indexer.keras import import_keras as run

    network = run(source, out)
    click.echo(f"{out}: ResNet-{network.depth}, {network.classes} classes")

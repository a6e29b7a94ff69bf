"""``secondlook map``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np

from secondlook.commands.shared.answering import open_answering
from secondlook.commands.shared.options import (
    bundles_option,
    generation_option,
    print_json,
    progress_option,
    reporting,
    with_ending,
)
from secondlook.curation.map import by_components, by_tsne, rows_of

COLUMNS = ("id", "source", "label", "x", "y")


@click.command("map")
@bundles_option
@generation_option
@click.option(
    "--method",
    type=click.Choice(["pca", "tsne"]),
    default="pca",
    show_default=True,
    help="pca: at once; tsne: shows groups, takes minutes, needs the extra map.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=with_ending,
    help="A .csv or .json file, a row an image.",
)
@click.option("--for-server", type=click.Path(path_type=Path, dir_okay=False), hidden=True)
@progress_option
def map_(
    root: Path | None,
    generation: str | None,
    method: str,
    out: Path | None,
    for_server: Path | None,
    progress_format: str,
) -> None:
    """Lay a cache's images out in two dimensions, those that are alike together."""
    if out is None and for_server is None:
        raise click.UsageError("give --out FILE.csv or FILE.json (a server's page shows its map)")
    with reporting(progress_format) as progress:
        cache, _ = open_answering(root, generation)
        found = by_tsne(cache, progress) if method == "tsne" else by_components(cache)
        if for_server is not None:
            with for_server.open("wb") as file:
                np.savez(file, ids=found.ids, positions=found.positions)
        if out is not None:
            rows = rows_of(cache, found)
            if out.suffix.lower() == ".json":
                out.write_text(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]) + "\n")
            else:
                with out.open("w", newline="") as file_:
                    lines = csv.writer(file_)
                    lines.writerow(COLUMNS)
                    lines.writerows(rows)
            click.echo(f"{len(found.ids):,} images written to {out}", err=True)
    if progress_format == "json":
        print_json(generation=cache.bundle.manifest.generation, images=len(found.ids))

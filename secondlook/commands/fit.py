"""``secondlook fit``."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.datasets import load
from indexer.fit import KS
from indexer.index import refit
from model import bundle as bundles
from model.manifest import FitReport, Manifest
from secondlook.options import (
    KType,
    data_root_option,
    generation_option,
    json_option,
    new_bundles_option,
    print_json,
    progress_option,
    reporting,
)


@click.command()
@click.argument("dataset")
@new_bundles_option
@data_root_option
@generation_option
@click.option("--k", "ks", type=KType(), multiple=True, help="A k to try; may be repeated.")
@click.option("--no-activate", is_flag=True, help="Leave the active bundle as it is.")
@json_option
@progress_option
def fit(
    dataset: str,
    root: Path,
    data_root: Path | None,
    generation: str | None,
    ks: tuple[int, ...],
    no_activate: bool,
    as_json: bool,
    progress_format: str,
) -> None:
    """Fit theta, lam and k of a bundle anew on the holdout of DATASET, the images that it caches.

    Writes a new bundle with the same keys, and everything that was tried; its id is printed last.
    """
    tried = tuple(k or None for k in ks) or KS
    with reporting(progress_format) as progress:
        generation = generation or bundles.active_generation(root)
        images = load(dataset, bundles.read_manifest(root, generation).dataset.split, data_root)
        new = refit(images, root, generation, tried, progress)
        if not no_activate:
            bundles.activate(root, new)
    manifest = bundles.read_manifest(root, new)
    assert manifest.fit is not None
    if as_json or progress_format == "json":
        print_json(generation=new, **manifest.fit.model_dump())
        return
    _print_table(manifest, manifest.fit)
    click.echo(new)


def _print_table(manifest: Manifest, report: FitReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"holdout error % (best lam), {report.images:,} images, network alone {report.network_error_percent:.2f}"
    )
    table.add_column("theta", justify="right")
    for k in report.ks:
        table.add_column(f"k={k or 'all'}", justify="right")
    for j, theta in enumerate(report.thetas):
        cells = []
        for i, k in enumerate(report.ks):
            error, lam = min(zip(report.error_percent[i][j], report.lams, strict=True))
            text = f"{error:.2f} ({lam:.2f})"
            cells.append(f"[bold green]{text}[/]" if (theta, k) == (manifest.theta, manifest.k) else text)
        table.add_row(f"{theta:g}", *cells)
    console = Console()
    console.print(table)
    console.print(
        f"chosen: theta {manifest.theta:g}, lam {manifest.lam:g}, k {manifest.k or 'all'}: "
        f"{report.chosen_error_percent:.2f} % error, negative log-likelihood {report.chosen_nll:.4f}"
    )

"""``secondlook evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from evaluation.evaluate import evaluate as run
from indexer.datasets import load
from model import bundle as bundles
from model.root import default_root
from secondlook.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    print_json,
    progress_option,
    reporting,
)


@click.command()
@click.argument("dataset")
@bundles_option
@data_root_option
@generation_option
@click.option("--split", default="test", show_default=True, help="train or test.")
@click.option("--exact", is_flag=True, help="Sum over all entries instead of the k nearest.")
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--lam", type=float, help="Another lam.")
@click.option("--cache-theta", type=float, help="Another theta for the cache alone.")
@json_option
@progress_option
def evaluate(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    split: str,
    exact: bool,
    theta: float | None,
    lam: float | None,
    cache_theta: float | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Error, calibration and likelihood of network, mixture and cache on DATASET."""
    with reporting(progress_format) as progress:
        bundle = bundles.open_bundle(root or default_root(), generation)
        result = run(bundle, load(dataset, split, data_root), theta, lam, cache_theta, exact=exact, progress=progress)
    if as_json or progress_format == "json":
        print_json(**asdict(result))
        return
    from rich.console import Console
    from rich.table import Table

    p = result.parameters
    table = Table(
        title=f"{dataset} {split}, {result.count:,} images, generation {result.generation}",
        caption=f"theta {p['theta']:g} (cache alone {p['cache_theta']:g}), lam {p['lam']:g}, k {p['k'] or 'all'}",
    )
    for column in ("", "error %", "ECE %", "NLL"):
        table.add_column(column, justify="right")
    for name, m in (("network", result.network), ("mixed", result.mixed), ("cache only", result.cache_only)):
        table.add_row(name, f"{m.error_percent:.2f}", f"{m.ece_percent:.2f}", f"{m.nll:.4f}")
    Console().print(table)

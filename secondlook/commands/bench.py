"""``secondlook bench``."""

from __future__ import annotations

from pathlib import Path

import click

from model import bundle as bundles
from secondlook.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    print_json,
    progress_option,
    reporting,
)

PARTS = ("engines", "index", "stages", "stores")


@click.command()
@bundles_option
@generation_option
@data_root_option
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this; may be repeated.")
@click.option("--images", type=click.IntRange(64), default=20_000, show_default=True, help="Images indexed by 'index'.")
@click.option(
    "--entries",
    type=click.IntRange(1000),
    multiple=True,
    default=(10_000, 50_000, 1_000_000),
    show_default=True,
    help="A size at which 'stores' are measured; may be repeated.",
)
@click.option(
    "--store",
    "factories",
    multiple=True,
    default=("auto", "Flat", "SQ8", "HNSW32,SQ8"),
    show_default=True,
    help="A store measured; may be repeated.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Spent on each time taken.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for bench.json and plots.")
@json_option
@progress_option
def bench(
    root: Path | None,
    generation: str | None,
    data_root: Path | None,
    parts: tuple[str, ...],
    images: int,
    entries: tuple[int, ...],
    factories: tuple[str, ...],
    seconds: float,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """What things cost, on CIFAR images: engines, the index build, the stages of an answer, stores by size.

    Figures are of one run on this machine: compare their ratios, not the figures of two machines.
    """
    from evaluation.benchmarks.run import Plan, run

    root = root or bundles.default_root()
    bundle = bundles.open_bundle(root, generation)
    with reporting(progress_format) as progress:
        report = run(root, bundle, data_root, Plan(parts or PARTS, images, entries, factories, seconds), progress)
    if as_json or progress_format == "json":
        print_json(**report.as_dict())
    else:
        report.show()
    if out is not None:
        for path in report.write(out):
            click.echo(path, err=True)

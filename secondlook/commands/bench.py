"""``secondlook bench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from evaluation import bench as benchmarks
from indexer.datasets import ArrayDataset, load
from model import bundle as bundles
from secondlook.options import bundles_option, data_root_option, generation_option, json_option, print_json, reporting


@click.command()
@bundles_option
@generation_option
@data_root_option
@json_option
@click.option("--images", type=click.IntRange(64), default=20_000, show_default=True, help="Images indexed.")
def bench(root: Path | None, generation: str | None, data_root: Path | None, as_json: bool, images: int) -> None:
    """Engines side by side, and the index build against the encoder alone, on CIFAR-10.

    Figures are of one run on this machine: compare their ratios, not the figures of two machines.
    """
    root = root or bundles.default_root()
    bundle = bundles.open_bundle(root, generation)
    test, train = load("cifar10", "test", data_root), load("cifar10", "train", data_root)
    assert isinstance(test, ArrayDataset)
    assert isinstance(train, ArrayDataset)
    results = benchmarks.engines(bundle, test.images)
    with reporting("auto") as progress:
        built = benchmarks.index_build(bundle, root, benchmarks.first(train, images), progress)
    if as_json:
        print_json(engines=[asdict(result) for result in results], index={**asdict(built), "ratio": built.ratio})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"encoder of generation {bundle.manifest.generation}, agreement on {len(test.labels):,} images")
    for column in (
        "engine",
        "one image, ms",
        "batch 32, images/s",
        "speed-up",
        "largest logit difference",
        "same top-1 %",
    ):
        table.add_column(column, justify="right")
    for r in results:
        table.add_row(
            r.name,
            f"{r.milliseconds_one:.2f}",
            f"{r.images_per_second_32:,.0f}",
            f"{results[0].milliseconds_one / r.milliseconds_one:.1f} / "
            f"{r.images_per_second_32 / results[0].images_per_second_32:.1f}",
            f"{r.max_logit_difference:.1e}",
            f"{r.same_top1_percent:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"index build of {built.images:,} images: {built.index_images_per_second:,.0f} images/s, "
        f"the encoder alone {built.encoder_images_per_second:,.0f}: ratio {built.ratio:.2f}"
    )

"""``secondlook train``."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    data_root_option,
    json_option,
    left_out_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.indexer.datasets.datasets import load_to_cache
from secondlook.model.images import Limits


@click.command()
@click.argument("dataset")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The safetensors file to write."
)
@data_root_option
@click.option(
    "--start",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A network file to start from; with other classes it gets a new last layer.",
)
@click.option("--depth", type=click.Choice(["20", "32", "44", "56"]), default="32", show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=128, show_default=True)
@click.option(
    "--lr",
    "peak_lr",
    type=click.FloatRange(0, min_open=True),
    default=0.3,
    show_default=True,
    help="Peak of the cycle.",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=5e-4, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--compile", "compile_", is_flag=True, help="Compile the network first (a minute; needs a C++ compiler on a CPU)."
)
@click.option(
    "--skip-empty", is_flag=True, help="Leave out classes that have no image that can be read, instead of giving up."
)
@left_out_option
@max_pixels_option
@json_option
@progress_option
def train(
    dataset: str,
    out: Path,
    data_root: Path | None,
    start: Path | None,
    depth: str,
    epochs: int,
    batch_size: int,
    peak_lr: float,
    weight_decay: float,
    seed: int,
    device: str,
    compile_: bool,
    skip_empty: bool,
    left_out_file: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Train a ResNet on DATASET, all but its holdout; keep the epoch that errs least there.

    Stopped runs go on where they were when called again.
    """
    from secondlook.indexer.train import TrainOptions
    from secondlook.indexer.train import train as run

    options = TrainOptions(
        depth=int(depth),
        epochs=epochs,
        batch_size=batch_size,
        peak_lr=peak_lr,
        weight_decay=weight_decay,
        seed=seed,
        start=str(start or ""),
        compile=compile_,
    )
    with reporting(progress_format) as progress:
        images = load_to_cache(dataset, "train", data_root, limits, skip_empty=skip_empty)
        history = run(images, out, options, device=device, progress=progress)
    best = min(history, key=lambda result: result.holdout_error_percent)
    left_out = tell_left_out([images], left_out_file)
    if as_json or progress_format == "json":
        print_json(
            out=str(out),
            epochs=len(history),
            best_epoch=best.epoch,
            holdout_error_percent=best.holdout_error_percent,
            **left_out.as_dict(),
        )
    else:
        click.echo(
            f"{out}: epoch {best.epoch} of {len(history)}, {best.holdout_error_percent:.2f} % error on the holdout"
        )

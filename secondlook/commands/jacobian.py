"""``secondlook jacobian``."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    setting_options,
)
from secondlook.model.images import Limits


@click.command()
@click.argument("dataset")
@bundles_option
@data_root_option
@generation_option
@click.option("--split", default="test", show_default=True, help="train or test.")
@click.option("--images", type=click.IntRange(1), default=500, show_default=True, help="How many, drawn by a seed.")
@setting_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for jacobian.json and the plot."
)
@max_pixels_option
@json_option
@progress_option
def jacobian(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    split: str,
    images: int,
    exact: bool,
    theta: float | None,
    lam: float | None,
    cache_theta: float | None,
    out: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how sharply the probabilities of network, mixture and cache move with the pixels of DATASET's images."""
    from secondlook.evaluation.robustness.jacobian import jacobians
    from secondlook.evaluation.robustness.models import Models
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.embedding.encoders import best_device
    from secondlook.indexer.results import show, write
    from secondlook.model.bundles.bundle import open_bundle
    from secondlook.model.bundles.default import default_root

    with reporting(progress_format) as progress:
        bundle = open_bundle(root or default_root(), generation)
        images_of = load(dataset, split, data_root, limits)
        models = Models.of(
            bundle,
            k=None if exact else "bundle",
            theta=theta,
            lam=lam,
            cache_theta=cache_theta,
            keeping="stored",
            device=best_device(),
        )
        study = jacobians(bundle, models, images_of, images, progress)
    if as_json or progress_format == "json":
        print_json(**study.as_dict())
    else:
        show(study)
    if out is not None:
        for path in write(study, out, "jacobian"):
            click.echo(path, err=True)

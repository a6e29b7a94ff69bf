"""``secondlook evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    left_out_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    setting_options,
    tell_left_out,
)
from secondlook.evaluation.evaluate import Setting
from secondlook.evaluation.evaluate import evaluate as run
from secondlook.evaluation.studies.curves import curves as measure_curves
from secondlook.evaluation.studies.doubt import doubt as measure_doubt
from secondlook.evaluation.studies.new_classes import new_classes as measure_new_classes
from secondlook.evaluation.studies.same_picture import IMAGES as TAUGHT
from secondlook.evaluation.studies.same_picture import same_picture as measure_same
from secondlook.evaluation.studies.shift import IMAGES as SOME
from secondlook.evaluation.studies.shift import REFILL
from secondlook.evaluation.studies.shift import shift as natural_shift
from secondlook.evaluation.studies.unknown_images import MADE
from secondlook.evaluation.studies.unknown_images import unknown as of_nothing
from secondlook.indexer import results as study
from secondlook.indexer.datasets.datasets import asked_of, load
from secondlook.indexer.embedding.encoders import best_device
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import NETWORK, read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import Limits


@click.command()
@click.argument("dataset")
@bundles_option
@data_root_option
@generation_option
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option(
    "--images",
    type=click.IntRange(1),
    help=f"Only so many of them, drawn at random but always the same.  [default: all; curves, shift: {SOME}]",
)
@setting_options
@click.option(
    "--curves", is_flag=True, help="Error by size of the cache and by layer too; the latter needs PyTorch (lab, gpu)."
)
@click.option("--shift", is_flag=True, help="Under natural shift too, and with a cache refilled with shifted images.")
@click.option(
    "--refill",
    type=click.IntRange(0),
    default=REFILL,
    show_default=True,
    help="With --shift: training images to refill the cache with; 0 = do not.",
)
@click.option(
    "--doubt", is_flag=True, help="How far to trust answers too: unknown images, sets of labels, credibility."
)
@click.option(
    "--unknown",
    multiple=True,
    help=f"With --doubt: a dataset of nothing that the bundle knows, or {', '.join(MADE)} (made here); may be repeated."
    f"  [default: {', '.join(MADE)}]",
)
@click.option(
    "--teach",
    help="A dataset of which classes are taught, a few images of each: are they recognised afterwards?",
)
@click.option(
    "--same",
    is_flag=True,
    help="Are pictures that were taught known again, copies of them too, and no others for them?",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON and plots."
)
@left_out_option
@max_pixels_option
@json_option
@progress_option
def evaluate(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    split: str,
    images: int | None,
    exact: bool,
    theta: float | None,
    lam: float | None,
    cache_theta: float | None,
    curves: bool,
    shift: bool,
    refill: int,
    doubt: bool,
    unknown: tuple[str, ...],
    teach: str | None,
    same: bool,
    out: Path | None,
    left_out_file: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Error, calibration and likelihood of network, mixture and cache on DATASET."""
    if unknown and not doubt:
        raise click.UsageError("--unknown goes with --doubt")
    with reporting(progress_format) as progress:
        root = root or default_root()
        generation = generation or active_generation(root)
        has_network = NETWORK in read_manifest(root, generation).files
        bundle = open_bundle(root, generation, device=best_device() if has_network else "cpu")
        asked = asked_of(bundle.manifest.classes, dataset, split, data_root, limits)
        measured = run(bundle, asked, theta, lam, cache_theta, exact=exact, images=images, progress=progress)
        studies: dict[str, study.Study] = {"errors": measured}
        if measured.in_holdout:
            click.echo(
                f"Warning: the parameters were fitted on {measured.in_holdout:,} of these images, which flatters "
                "it: evaluate others, such as --split test",
                err=True,
            )
        some = images or SOME
        if curves:
            studies["curves"] = measure_curves(
                bundle,
                asked,
                load(dataset, bundle.manifest.dataset.split, data_root, limits),
                images=some,
                progress=progress,
            )
        if shift:
            train = load(dataset, bundle.manifest.dataset.split, data_root, limits) if refill else None
            setting = Setting.of(bundle.manifest, theta, lam, cache_theta, exact=exact)
            studies["shift"] = natural_shift(
                bundle, asked, train, images=some, refill=refill, setting=setting, progress=progress
            )
        if doubt:
            strange = [of_nothing(name, bundle.engine.size, data_root) for name in dict.fromkeys(unknown or MADE)]
            studies["doubt"] = measure_doubt(bundle, asked, strange, images=images, progress=progress)
        if teach is not None:
            new = (load(teach, part, data_root, limits) for part in ("train", "test"))
            studies["teach"] = measure_new_classes(bundle, asked, *new, images=images, progress=progress)
        if same:
            studies["same"] = measure_same(bundle, asked, images=min(images or TAUGHT, TAUGHT), progress=progress)
        if out is not None:
            for name, found in studies.items():
                study.write(found, out, name)
    is_json = as_json or progress_format == "json"
    if not is_json:
        for found in studies.values():
            study.show(found)
    left_out = tell_left_out([asked], left_out_file)
    if is_json:
        errors, *others = studies
        told = {name: studies[name].as_dict() for name in others}
        print_json(**studies[errors].as_dict(), **told, **left_out.as_dict())

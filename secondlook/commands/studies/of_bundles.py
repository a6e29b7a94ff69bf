"""Studies of a bundle: a new one on a dataset is a function with ``of_trial`` above it."""

from __future__ import annotations

from pathlib import Path

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    max_pixels_option,
    reporting,
    setting_options,
)
from secondlook.commands.shared.trials import Trial, tell
from secondlook.commands.studies.group import of_trial, result_options, study
from secondlook.evaluation.evaluate import Setting
from secondlook.evaluation.studies import curves as by_cache
from secondlook.evaluation.studies import doubt as of_doubt
from secondlook.evaluation.studies import new_classes as taught
from secondlook.evaluation.studies import planted as wrong_labels
from secondlook.evaluation.studies import same_picture as pictures
from secondlook.evaluation.studies import shift as natural
from secondlook.evaluation.studies.unknown_images import MADE, unknown_images
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.results import Study, write
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.images import Limits


@of_trial("doubt")
@click.option(
    "--unknown",
    multiple=True,
    help=f"A dataset of nothing that the bundle knows, or {', '.join(MADE)} (made here); may be repeated."
    f"  [default: {', '.join(MADE)}]",
)
def doubt(trial: Trial, unknown: tuple[str, ...] = ()) -> Study:
    """Measure how far to trust answers: unknown images, sets of labels, credibility."""
    size = trial.bundle.engine.size
    strange = [unknown_images(name, size, trial.data_root) for name in dict.fromkeys(unknown or MADE)]
    return of_doubt.doubt(trial.bundle, trial.dataset, strange, images=trial.images, progress=trial.progress)


@of_trial("new-classes")
@click.option("--new", default="cifar100", show_default=True, help="A dataset of which classes are taught.")
def new_classes(trial: Trial, new: str) -> Study:
    """Measure whether new classes are recognised of which a few images were taught, and what the known ones lose."""
    train, test = (trial.load(new, split) for split in ("train", "test"))
    return taught.new_classes(trial.bundle, trial.dataset, train, test, images=trial.images, progress=trial.progress)


@of_trial("shift")
@setting_options
@click.option(
    "--refill",
    type=click.IntRange(0),
    default=natural.REFILL,
    show_default=True,
    help="Training images to refill the cache with; 0 = do not.",
)
def shift(
    trial: Trial, exact: bool, theta: float | None, lam: float | None, cache_theta: float | None, refill: int
) -> Study:
    """Measure errors under natural shift, and with a cache refilled with shifted images (of 2,000 images)."""
    return natural.shift(
        trial.bundle,
        trial.dataset,
        trial.cached() if refill else None,
        images=trial.images or natural.IMAGES,
        refill=refill,
        setting=Setting.of(trial.bundle.manifest, theta, lam, cache_theta, exact=exact),
        progress=trial.progress,
    )


@of_trial("curves")
def curves(trial: Trial) -> Study:
    """Measure errors by the size of the cache (of 2,000 images)."""
    return _curves(trial, ("size",))


@of_trial("layers")
@click.option("--layer", "names", multiple=True, help="One of the network's; may be repeated.  [default: some of each]")
def layers(trial: Trial, names: tuple[str, ...]) -> Study:
    """Measure errors by the layer that keys are made of (of 2,000 images); needs PyTorch (lab, gpu)."""
    return _curves(trial, ("layer",), names)


def curves_and_layers(trial: Trial) -> Study:
    """Measure both at once."""
    return _curves(trial, by_cache.BY)


def _curves(trial: Trial, by: tuple[by_cache.By, ...], layers: tuple[str, ...] = ()) -> Study:
    return by_cache.curves(
        trial.bundle,
        trial.dataset,
        trial.cached(),
        by=by,
        images=trial.images or by_cache.IMAGES,
        layers=layers or None,
        progress=trial.progress,
    )


@of_trial("same-picture")
def same_picture(trial: Trial) -> Study:
    """Measure whether pictures that were taught (1,000) are known again, copies of them too, and no others."""
    images = trial.images or pictures.IMAGES
    return pictures.same_picture(trial.bundle, trial.dataset, images=images, progress=trial.progress)


@study.command()
@bundles_option
@generation_option
@click.option(
    "--share",
    type=click.FloatRange(0, wrong_labels.MOST, min_open=True),
    default=0.02,
    show_default=True,
    help="Of the images, that get a wrong label.",
)
@click.option("--seeds", type=click.IntRange(1), default=wrong_labels.SEEDS, show_default=True, help="How often.")
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--k", type=click.IntRange(1), help="Another number of neighbours.")
@click.option(
    "--holdout",
    is_flag=True,
    help="Rank only the images of the dataset's holdout, on which the network was not trained.",
)
@click.option("--dataset", help="Where the holdout's images come from.  [default: as indexed]")
@data_root_option
@max_pixels_option
@result_options
def planted(
    root: Path | None,
    generation: str | None,
    share: float,
    seeds: int,
    theta: float | None,
    k: int | None,
    holdout: bool,
    dataset: str | None,
    data_root: Path | None,
    limits: Limits,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how many wrong labels, planted in memory, `secondlook audit` finds."""
    with reporting(progress_format) as progress:
        bundle = open_bundle(root or default_root(), generation)
        sources = None
        if holdout:
            cached = bundle.manifest.dataset
            images = load(dataset or cached.name, cached.split, data_root, limits)
            sources = {images.source(int(i)) for i in images.holdout()}
        found = wrong_labels.planted(bundle, share, seeds=seeds, theta=theta, k=k, sources=sources, progress=progress)
        if out is not None:
            write(found, out, "planted")
    tell(found, as_json or progress_format == "json")


@study.command()
@bundles_option
@click.option("--new", default="cifar100", show_default=True, help="A dataset of which classes are taught.")
@data_root_option
@result_options
def promises(
    root: Path | None, new: str, data_root: Path | None, out: Path | None, as_json: bool, progress_format: str
) -> None:
    """Measure whether sets and credibility hold what they promise, plain and while the cache changes.

    As the bundle is, after teaching, after folding that in, and after removing entries.
    """
    from secondlook.evaluation.studies.promises import promises as measure

    with reporting(progress_format) as progress:
        found = measure(root or default_root(), data_root, new, progress)
        if out is not None:
            write(found, out, "promises")
    tell(found, as_json or progress_format == "json")

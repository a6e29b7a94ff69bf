"""``secondlook study``.

A new study of a bundle on a dataset is a function with ``of_trial`` above it, one of several networks a command that
takes ``network_options``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    max_pixels_option,
    progress_option,
    reporting,
    setting_options,
    tell_left_out,
)
from secondlook.commands.shared.trials import Trial, tell, trial_options
from secondlook.evaluation.evaluate import Setting
from secondlook.evaluation.studies import curves as by_cache
from secondlook.evaluation.studies import doubt as of_doubt
from secondlook.evaluation.studies import new_classes as taught
from secondlook.evaluation.studies import planted as wrong_labels
from secondlook.evaluation.studies import same_picture as pictures
from secondlook.evaluation.studies import shift as natural
from secondlook.evaluation.studies.unknown_images import MADE, unknown_images
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.results import Study, write
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import Limits
from secondlook.model.networks.preprocess import CIFAR

Measure = Callable[..., Study]


@click.group("study")
def study() -> None:
    """Ask one question about a bundle and its cache, on real images."""


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add where results go."""
    out = click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON and plots."
    )
    return out(json_option(progress_option(command)))


def of_trial(name: str) -> Callable[[Measure], Measure]:
    """Make ``secondlook study NAME DATASET`` of a function of a ``Trial`` and its own options.

    The function's docstring is the command's help; what it returns is printed, and written to --out.
    """

    def register(measure: Measure) -> Measure:
        @study.command(name)
        @trial_options
        @result_options
        @wraps(measure)
        def command(
            dataset: str,
            root: Path | None,
            data_root: Path | None,
            generation: str | None,
            split: str,
            images: int | None,
            limits: Limits,
            out: Path | None,
            as_json: bool,
            progress_format: str,
            **own: Any,
        ) -> None:
            with reporting(progress_format) as progress:
                trial = Trial.open(dataset, root, data_root, generation, split, images, limits, progress)
                found = measure(trial, **own)
                if out is not None:
                    write(found, out, name)
            tell_left_out([trial.dataset])
            tell(found, as_json or progress_format == "json")

        return measure

    return register


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


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments of ``networks``."""
    weights = click.option(
        "--weights",
        type=click.Path(path_type=Path, exists=True),
        multiple=True,
        help="A folder of the paper's author's .h5 files, or one of them; may be repeated.",
    )
    return bundles_option(weights(data_root_option(command)))


class Network(NamedTuple):
    """A network, and the images of its classes."""

    name: str
    source: EncoderSource
    train: Dataset
    test: Dataset


def networks(root: Path | None, weights: tuple[Path, ...], data_root: Path | None) -> Iterator[Network]:
    """Give a bundle's network, the default one's where there are no weights, and those of weights."""
    from secondlook.evaluation.paper.subjects import from_weights

    def split(dataset: str) -> tuple[Dataset, Dataset]:
        return load(dataset, "train", data_root), load(dataset, "test", data_root)

    if root is not None or not weights:
        root = root or default_root()
        dataset = read_manifest(root, active_generation(root)).dataset.name
        yield Network("the bundle's", FromBundle(root), *split(dataset))
    with tempfile.TemporaryDirectory() as folder:
        for subject in from_weights(weights, Path(folder), data_root):
            yield Network(subject.name, FromCifar(subject.network, "compact"), *split(subject.dataset))


@study.command()
@network_options
@click.option("--mirror", is_flag=True, help="Cache each image's mirrored copy too.")
@result_options
def gain(
    root: Path | None,
    weights: tuple[Path, ...],
    data_root: Path | None,
    mirror: bool,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how much of what a cache can gain fitted parameters keep, with a holdout and without.

    For the bundle's network (--bundles; the default one's without --weights) and others (--weights).
    """
    from secondlook.evaluation.studies.gain import Gains
    from secondlook.evaluation.studies.gain import gain as measure

    with reporting(progress_format) as progress:
        rows = (measure(*network, mirror=mirror, progress=progress) for network in networks(root, weights, data_root))
        found = Gains(tuple(rows))
        if out is not None:
            write(found, out, "gain")
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


@study.command()
@network_options
@result_options
def novelty(
    root: Path | None,
    weights: tuple[Path, ...],
    data_root: Path | None,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how near the score that novelty is told by is to the best of all candidates.

    For the same networks as gain, on another dataset, drawings, noise, and classes left out.
    """
    from secondlook.evaluation.studies.novelties import Novelties, novelties

    def others(dataset: str) -> list[Dataset]:
        names = ("cifar10" if dataset == "cifar100" else "cifar100", *MADE)
        return [unknown_images(name, CIFAR.geometry.size, data_root) for name in names]

    with reporting(progress_format) as progress:
        asked = networks(root, weights, data_root)
        found = Novelties(tuple(novelties(*one, others(one.train.name), progress) for one in asked))
        if out is not None:
            write(found, out, "novelty")
    tell(found, as_json or progress_format == "json")


class Counts(click.ParamType):  # type: ignore[type-arg]
    """Numbers of images, with commas between."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) > 1 for part in parts):
            self.fail(f"{value!r} is no list of numbers above 1, such as 50,100,200", param, ctx)
        return tuple(sorted(map(int, parts)))


@study.command("preprocessing")
@click.argument("network")
@click.argument("photos")
@data_root_option
@click.option("--split", default="train", show_default=True, help="Of the photos: train, val or test.")
@click.option(
    "--preprocess",
    "preprocess_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A JSON file with the right preprocessing, in place of what the network declares.",
)
@click.option(
    "--class-map",
    "class_map_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Lines of a class of the photos, TAB, the network's class (name or index).",
)
@click.option("--images", type=Counts(), default="50,100,200", show_default=True, help="How many are asked.")
@click.option("--draws", type=click.IntRange(2), default=100, show_default=True, help="How often they are drawn.")
@click.option("--photos", "most", type=click.IntRange(2), default=600, show_default=True, help="Drawn from so many.")
@max_pixels_option
@result_options
def preprocessing(
    network: str,
    photos: str,
    data_root: Path | None,
    split: str,
    preprocess_file: Path | None,
    class_map_file: Path | None,
    images: tuple[int, ...],
    draws: int,
    most: int,
    limits: Limits,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how often labelled photos catch a mistaken preprocessing, and refuse the right one.

    NETWORK is named as for `secondlook network`; its preprocessing is taken for right.
    """
    from secondlook.evaluation.studies.preprocessing import preprocessing as measure
    from secondlook.indexer.sources.from_network import shown_name
    from secondlook.model.errors import NetworkError
    from secondlook.model.networks.classes import match_classes, read_class_map
    from secondlook.model.networks.onnx_network import OnnxNetwork
    from secondlook.model.networks.sources import open_network

    with reporting(progress_format) as progress:
        class_map = None if class_map_file is None else read_class_map(class_map_file)
        opened = open_network(network, preprocess_file)
        if not isinstance(opened, OnnxNetwork):
            raise NetworkError(f"{network} normalises pixels itself: there is no preprocessing of it to mistake")
        dataset = load(photos, split, data_root, limits)
        match = match_classes(dataset.classes, opened.classes, class_map)
        name = shown_name(network)
        found = measure(opened, name, dataset, match, counts=images, draws=draws, photos=most, progress=progress)
        if out is not None:
            write(found, out, "preprocessing")
    tell_left_out([dataset])
    tell(found, as_json or progress_format == "json")

"""Studies of any network on labelled photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click

from secondlook.commands.shared.network_options import class_map_option, network_source, preprocess_option
from secondlook.commands.shared.options import data_root_option, max_pixels_option
from secondlook.commands.studies.group import result_options, run, study
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import EncoderSource
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import Study
from secondlook.indexer.sources.from_network import HeadChoice, shown_name
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits

HEADS = get_args(HeadChoice)


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
@preprocess_option
@class_map_option
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
    preprocess: Path | None,
    class_map: Path | None,
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
    from secondlook.model.errors import NetworkError
    from secondlook.model.networks.classes import match_classes, read_class_map
    from secondlook.model.networks.onnx_network import OnnxNetwork
    from secondlook.model.networks.sources import open_network

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        names = None if class_map is None else read_class_map(class_map)
        opened = open_network(network, preprocess)
        if not isinstance(opened, OnnxNetwork):
            raise NetworkError(f"{network} normalises pixels itself: there is no preprocessing of it to mistake")
        dataset = load(photos, split, data_root, limits)
        match = match_classes(dataset.classes, opened.classes, names)
        name = shown_name(network)
        found = measure(opened, name, dataset, match, counts=images, draws=draws, photos=most, progress=progress)
        return found, [dataset]

    run("preprocessing", measured, out, as_json, progress_format)


@study.command("geometry")
@click.argument("network")
@click.argument("photos")
@data_root_option
@preprocess_option
@click.option("--counts", type=Counts(), default="5,20,100", show_default=True, help="Photos of each class.")
@click.option("--draws", type=click.IntRange(1), default=20, show_default=True, help="How often they are drawn.")
@max_pixels_option
@result_options
def geometry(
    network: str,
    photos: str,
    data_root: Path | None,
    preprocess: Path | None,
    counts: tuple[int, ...],
    draws: int,
    limits: Limits,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure what choosing how photos are shown to a network without a head comes to, and what it costs.

    NETWORK is named as for `secondlook network`; PHOTOS have a train and a test split.
    """
    from secondlook.evaluation.studies.geometry import geometry as measure
    from secondlook.model.errors import NetworkError
    from secondlook.model.networks.onnx_network import OnnxNetwork
    from secondlook.model.networks.sources import open_network

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        opened = open_network(network, preprocess)
        if not isinstance(opened, OnnxNetwork):
            raise NetworkError(f"{network} takes images in one way: give an ONNX graph or a backbone's name")
        train, test = _splits(photos, data_root, limits)
        found = measure(opened, shown_name(network), train, test, counts=counts, draws=draws, progress=progress)
        return found, [train, test]

    run("geometry", measured, out, as_json, progress_format)


def photos_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a network, labelled photos, and how the one is to take the other."""
    head = click.option(
        "--head", type=click.Choice(HEADS), default="auto", show_default=True, help="As for `secondlook index`."
    )
    command = preprocess_option(class_map_option(head(max_pixels_option(command))))
    return click.argument("network")(click.argument("photos")(data_root_option(command)))


class Photos(NamedTuple):
    """A network, and photos to index and to ask about."""

    name: str
    source: EncoderSource
    train: Dataset
    test: Dataset

    @classmethod
    def open(
        cls,
        network: str,
        photos: str,
        data_root: Path | None,
        preprocess: Path | None,
        class_map: Path | None,
        head: HeadChoice,
        limits: Limits,
    ) -> Photos:
        """Open what ``photos_options`` named.

        Raises:
            DatasetError: there are no such photos, or they have no test split.
        """
        train, test = _splits(photos, data_root, limits)
        source = network_source(network, None, preprocess, class_map, head)
        return cls(shown_name(network), source, train, test)


@study.command("few-shot")
@photos_options
@click.option("--counts", type=Counts(), default="5,20,100", show_default=True, help="Photos of each class.")
@click.option("--draws", type=click.IntRange(1), default=3, show_default=True, help="How often they are drawn.")
@result_options
def few_shot(
    counts: tuple[int, ...], draws: int, out: Path | None, as_json: bool, progress_format: str, **named: Any
) -> None:
    """Measure how good answers are with few photos of each class, and what sets of labels hold."""
    from secondlook.evaluation.studies.few_shot import few_shot as measure

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        photos = Photos.open(**named)
        return measure(*photos, counts=counts, draws=draws, progress=progress), [photos.train, photos.test]

    run("few-shot", measured, out, as_json, progress_format)


@study.command("left-out-classes")
@photos_options
@click.option("--count", type=click.IntRange(2), default=100, show_default=True, help="Photos of each other class.")
@click.option("--draws", type=click.IntRange(1), default=3, show_default=True, help="How often photos are drawn.")
@result_options
def left_out_classes(
    count: int, draws: int, out: Path | None, as_json: bool, progress_format: str, **named: Any
) -> None:
    """Measure how well a class is known of which 1 to 20 photos were taught, leaving each class out in turn."""
    from secondlook.evaluation.studies.left_out_classes import left_out_classes as measure

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        photos = Photos.open(**named)
        return measure(*photos, count=count, draws=draws, progress=progress), [photos.train, photos.test]

    run("left-out-classes", measured, out, as_json, progress_format)


@study.command("suggest")
@click.argument("network")
@click.argument("photos")
@data_root_option
@preprocess_option
@click.option("--counts", type=Counts(), default="20,50,100,200", show_default=True, help="Labels after which to ask.")
@click.option("--draws", type=click.IntRange(2), default=10, show_default=True, help="How often photos are drawn.")
@max_pixels_option
@result_options
def suggest(
    network: str,
    photos: str,
    data_root: Path | None,
    preprocess: Path | None,
    counts: tuple[int, ...],
    draws: int,
    limits: Limits,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure how good answers are after so many labels, in the order of `secondlook suggest` and at random.

    NETWORK is named as for `secondlook network`, its head is not used; PHOTOS have a train and a test split.
    """
    from secondlook.evaluation.studies.labelling import labelling

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        source = network_source(network, None, preprocess, None, "none")
        train, test = _splits(photos, data_root, limits)
        found = labelling(shown_name(network), source, train, test, counts=counts, draws=draws, progress=progress)
        return found, [train, test]

    run("suggest", measured, out, as_json, progress_format)


def _splits(photos: str, data_root: Path | None, limits: Limits) -> tuple[Dataset, Dataset]:
    train, test = (load(photos, split, data_root, limits) for split in ("train", "test"))
    if train.content_hash() == test.content_hash():
        raise DatasetError(f"{photos} has no test photos: put some of each class into {photos}/test/<class>/")
    return train, test

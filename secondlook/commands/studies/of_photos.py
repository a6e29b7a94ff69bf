"""Studies of any network on labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.network_options import class_map_option, preprocess_option
from secondlook.commands.shared.options import (
    data_root_option,
    max_pixels_option,
    reporting,
    tell_left_out,
)
from secondlook.commands.shared.trials import tell
from secondlook.commands.studies.group import result_options, study
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.results import write
from secondlook.model.images import Limits


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
    from secondlook.indexer.sources.from_network import shown_name
    from secondlook.model.errors import NetworkError
    from secondlook.model.networks.classes import match_classes, read_class_map
    from secondlook.model.networks.onnx_network import OnnxNetwork
    from secondlook.model.networks.sources import open_network

    with reporting(progress_format) as progress:
        names = None if class_map is None else read_class_map(class_map)
        opened = open_network(network, preprocess)
        if not isinstance(opened, OnnxNetwork):
            raise NetworkError(f"{network} normalises pixels itself: there is no preprocessing of it to mistake")
        dataset = load(photos, split, data_root, limits)
        match = match_classes(dataset.classes, opened.classes, names)
        name = shown_name(network)
        found = measure(opened, name, dataset, match, counts=images, draws=draws, photos=most, progress=progress)
        if out is not None:
            write(found, out, "preprocessing")
    tell_left_out([dataset])
    tell(found, as_json or progress_format == "json")

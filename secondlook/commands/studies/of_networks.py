"""Studies of several networks: a new one is a command that takes ``networks_options``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from secondlook.commands.shared.options import bundles_option, data_root_option
from secondlook.commands.studies.group import result_options, run, study
from secondlook.evaluation.studies.unknown_images import MADE, unknown_images
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import Study
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.networks.preprocess import CIFAR


def networks_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
@networks_options
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

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        rows = (measure(*network, mirror=mirror, progress=progress) for network in networks(root, weights, data_root))
        return Gains(tuple(rows)), []

    run("gain", measured, out, as_json, progress_format)


@study.command()
@networks_options
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

    def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
        asked = networks(root, weights, data_root)
        return Novelties(tuple(novelties(*one, others(one.train.name), progress) for one in asked)), []

    run("novelty", measured, out, as_json, progress_format)

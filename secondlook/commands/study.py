"""``secondlook study``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from evaluation import study as studies
from indexer.datasets import Dataset, load
from indexer.encoders import INPUT_SIZE, EncoderSource, FromBundle, FromNetwork
from indexer.progress import Progress
from model.bundle import read_manifest
from model.root import active_generation, default_root
from secondlook.options import bundles_option, data_root_option, json_option, print_json, progress_option, reporting

NAMES = ("gain", "promises", "novelty")


@click.command("study")
@click.argument("name", type=click.Choice(NAMES))
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="gain, novelty: a folder of the paper's author's .h5 files, or one of them; may be repeated.",
)
@bundles_option
@data_root_option
@click.option("--mirror", is_flag=True, help="gain: cache each image's mirrored copy too.")
@click.option("--new", default="cifar100", show_default=True, help="promises: a dataset of which classes are taught.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON.")
@json_option
@progress_option
def study_command(
    name: str,
    weights: tuple[Path, ...],
    root: Path | None,
    data_root: Path | None,
    mirror: bool,
    new: str,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Ask what is promised of a bundle and its cache.

    gain: how much of what a cache can gain is kept by parameters as they are fitted, with a holdout and without, for
    the bundle's network (--bundles; the default one's without --weights) and others (--weights). promises: whether sets
    and credibility hold what they promise, plain, after teaching, after folding it in, and after removing entries.
    novelty: how near the score that novelty is told by is to the best of all candidates, for the same networks as gain,
    on another dataset, drawings, noise, and classes left out.
    """
    found: studies.Study
    with reporting(progress_format) as progress:
        if name == "promises":
            from evaluation.promises import promises

            found = promises(root or default_root(), data_root, new, progress)
        else:
            networks = _networks(weights, root, data_root)
            found = _gains(networks, mirror, progress) if name == "gain" else _novelties(networks, data_root, progress)
    if out is not None:
        studies.write(found, out, name)
    if as_json or progress_format == "json":
        print_json(**found.as_dict())
        return
    studies.show(found)


class _Network(NamedTuple):
    """A network that is asked, and its images."""

    name: str
    source: EncoderSource
    train: Dataset
    test: Dataset


def _networks(weights: tuple[Path, ...], root: Path | None, data_root: Path | None) -> Iterator[_Network]:
    """A bundle's network, the default one's where no weights are given, and those of weights."""
    if root is not None or not weights:
        root = root or default_root()
        dataset = read_manifest(root, active_generation(root)).dataset.name
        yield _Network("the bundle's", FromBundle(root), *_both(dataset, data_root))
    if not weights:
        return
    from evaluation.subjects import from_weights

    with tempfile.TemporaryDirectory() as folder:
        for subject in from_weights(weights, Path(folder), data_root):
            source = FromNetwork(subject.network, "compact")
            yield _Network(subject.name, source, *_both(subject.dataset, data_root))


def _both(dataset: str, data_root: Path | None) -> tuple[Dataset, Dataset]:
    return load(dataset, "train", data_root), load(dataset, "test", data_root)


def _gains(networks: Iterator[_Network], mirror: bool, progress: Progress) -> studies.Study:
    from evaluation.gain import Gains, gain

    return Gains(tuple(gain(*network, mirror=mirror, progress=progress) for network in networks))


def _novelties(networks: Iterator[_Network], data_root: Path | None, progress: Progress) -> studies.Study:
    from evaluation.novelties import Novelties, novelties
    from evaluation.unknown import MADE, unknown

    def others(dataset: str) -> list[Dataset]:
        names = ("cifar10" if dataset == "cifar100" else "cifar100", *MADE)
        return [unknown(name, INPUT_SIZE, data_root) for name in names]

    return Novelties(tuple(novelties(*network, others(network.train.name), progress) for network in networks))

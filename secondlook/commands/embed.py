"""``secondlook embed``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

from secondlook.commands.embed_files import ENDINGS, Head, Write, key_file, list_beside
from secondlook.commands.shared.bundle_encoder import Encoder, of_bundle
from secondlook.commands.shared.network_options import is_cifar, network_help, preprocess_option
from secondlook.commands.shared.options import (
    bundles_option,
    generation_option,
    json_option,
    left_out_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.indexer.datasets.folders import FolderDataset, load_photos
from secondlook.indexer.datasets.left_out import check_ending, printable
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.embedding.embedding import embedded_batches
from secondlook.indexer.embedding.kept_features import KeptFeatures
from secondlook.indexer.sources.from_network import shown_name
from secondlook.model.answering.told import Nearest, nearest
from secondlook.model.answering.wanted import MAX_SEARCHED
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import DatasetError, NetworkError
from secondlook.model.images import Limits
from secondlook.model.networks.backbones import DEFAULT_BACKBONE
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.sources import open_network


def _check_out(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        check_ending(path, *ENDINGS)
    return path


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@bundles_option
@generation_option
@click.option("--network", metavar="NETWORK", help=f"In place of a bundle's encoder, a network. {network_help}")
@preprocess_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_check_out,
    help="Write the keys to a file: .npy (float32; the photos are listed in NAME.files.json), .csv or .json.",
)
@click.option(
    "--neighbors",
    type=click.IntRange(1, MAX_SEARCHED),
    metavar="K",
    help="Print the K cached entries that are nearest to each photo.",
)
@left_out_option
@max_pixels_option
@json_option
@progress_option
@click.pass_context
def embed(
    context: click.Context,
    photos: Path,
    root: Path | None,
    generation: str | None,
    network: str | None,
    preprocess: Path | None,
    out: Path | None,
    neighbors: int | None,
    left_out_file: Path | None,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Give each of PHOTOS, a folder of any layout or a file, its key: what a cache is searched with.

    By the encoder of a bundle, or by --network, for which no bundle is needed. Keys are float32 of length 1, so that
    their inner products are similarities; --neighbors searches the bundle's cache with them.
    """
    _check(context, network, out, neighbors)
    as_json = as_json or progress_format == "json"
    # The results' own stream is taken before a bar takes its place, but where both are the terminal's.
    results = None if sys.stdout.isatty() else sys.stdout
    with ExitStack() as stack, reporting(progress_format) as progress:
        images = load_photos(photos, limits)
        encoder = stack.enter_context(
            of_bundle(root, generation, f"--network {DEFAULT_BACKBONE}", searches=neighbors is not None)
            if network is None
            else _of_network(network, preprocess, images)
        )
        count, done = len(images.files), 0
        progress("embed", 0, count)
        with ExitStack() as writing:
            write: Write | None = None
            if out is not None:
                tail = lambda: images.left_out.as_dict()  # noqa: E731 - known at the end
                write = writing.enter_context(key_file(out, count, encoder.engine.dim, encoder.said, tail))
            for positions, names, keys in _keys(images, encoder):
                if write is not None and len(names):
                    write(names, keys)
                if neighbors is not None and encoder.predictor is not None and len(names):
                    for name, hits in zip(names, encoder.predictor.search(keys, neighbors), strict=True):
                        near = nearest(encoder.predictor, hits, name, _nowhere)
                        click.echo(_as_json(encoder, name, near) if as_json else _as_text(name, near), file=results)
                done += len(names)
                progress("embed", int(positions[-1]) + 1, count)
            if not done:
                raise DatasetError(f"{photos} has no photo that can be read: {images.left_out.said()}")
            if positions[-1] + 1 < count:
                progress("embed", count, count)
    left_out = tell_left_out([images], left_out_file)
    if out is not None:
        beside = f", {list_beside(out)}" if out.suffix.lower() == ".npy" else ""
        click.echo(f"{done:,} keys of {encoder.engine.dim:,} numbers: {out}{beside}", err=True)
    if encoder.kept.is_kept:
        click.echo(encoder.kept.counts.said(), err=True)
    if as_json:
        print_json(**encoder.said, embedded=done, left_out=left_out.counts())


def _check(context: click.Context, network: str | None, out: Path | None, neighbors: int | None) -> None:
    """Refuse options that mean nothing together."""
    if out is None and neighbors is None:
        raise click.UsageError(
            "say what is wanted: --out FILE.npy, .csv or .json for the keys, or --neighbors K for the nearest entries"
        )
    given = {
        name: context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        for name in ("root", "generation", "preprocess")
    }
    if network is not None:
        if neighbors is not None:
            raise click.UsageError("--neighbors searches a bundle: index one with --network, and give that --bundles")
        for name in ("root", "generation"):
            if given[name]:
                option = name.replace("root", "bundles")
                raise click.UsageError(f"--{option} does not go with --network: give one of them")
    elif given["preprocess"]:
        raise click.UsageError("--preprocess goes with --network: a bundle has its own")


@contextmanager
def _of_network(name: str, preprocess: Path | None, images: FolderDataset) -> Iterator[Encoder]:
    """A network's encoder, as ``index`` makes it where nothing is measured: by what the network declares.

    Raises:
        NetworkError: there is no such network, or its keys are made with a dataset.
        DatasetError: there is no photo to prove its export on.
    """
    if is_cifar(name):
        raise NetworkError(
            f"{name} makes its keys with a dataset's help: index one with it, and give embed that --bundles"
        )
    network = open_network(name, preprocess)
    assert isinstance(network, OnnxNetwork)
    if not network.preprocess.is_declared:
        click.echo(
            f"{name} says nowhere how it takes pixels, {network.preprocess.arithmetic} is taken: "
            "--preprocess FILE.json may say it",
            err=True,
        )
    geometry = network.preprocess.geometry
    some = next(batches(images, np.arange(len(images.files)), geometry, 5), None)
    if some is None:
        raise DatasetError(f"{images.root} has no photo that can be read: {images.left_out.said()}")
    from secondlook.model.networks.encoder_graph import export_encoder

    with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
        engine = export_encoder(network, default_recipe(network), Path(folder) / "encoder.onnx", some[1], head=False)
        said: Head = {"generation": None, "network": shown_name(name), "dim": engine.dim}
        yield Encoder(engine, geometry, KeptFeatures(None, engine.dim), said)


def _keys(images: FolderDataset, encoder: Encoder) -> Iterator[tuple[Ints, list[str], Floats]]:
    """Positions in the folder of images that have a key, their names and keys, some at a time."""
    for batch in embedded_batches(images, np.arange(len(images.files)), encoder, encoder.kept):
        names = [images.source(position) for position in batch.positions.tolist()]
        yield batch.positions, names, batch.copies[0].encoding.keys


def _as_text(name: str, near: Nearest) -> str:
    listed = (f"{one['label']} {one['similarity']:.3f} ({printable(one['source'])})" for one in near["neighbors"])
    return f"{name}: {', '.join(listed)}"


def _as_json(encoder: Encoder, name: str, near: Nearest) -> str:
    listed = [{key: value for key, value in one.items() if key != "thumbnail"} for one in near["neighbors"]]
    return json.dumps({"file": name, "generation": encoder.said["generation"], "neighbors": listed})


def _nowhere(_entry: object) -> None:
    """Pictures of entries are a server's to show."""

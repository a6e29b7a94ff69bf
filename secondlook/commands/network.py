"""``secondlook network``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from secondlook.commands.shared.network_options import class_map_option, preprocess_option
from secondlook.commands.shared.options import (
    json_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.folders import FolderDataset, no_class_folders
from secondlook.indexer.fitting.drawn import draw
from secondlook.indexer.fitting.pooling import PoolChoice, best_pool
from secondlook.indexer.fitting.preprocessing import measure
from secondlook.indexer.fitting.race import MOST
from secondlook.indexer.fitting.views import Choice
from secondlook.indexer.progress import Progress
from secondlook.model.errors import DatasetError, NetworkError
from secondlook.model.images import Limits
from secondlook.model.networks.classes import ClassMatch, match_classes, read_class_map
from secondlook.model.networks.network import Layer, Network, default_pool
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.proof import PreprocessProof, Tried
from secondlook.model.networks.sources import TABLE, open_network

SHOWN = 24
"""Layers that are listed for people; --json and --layers list all."""
JUDGES = {
    "head": "the head's softmax",
    "table": "which of the network's classes go with which folder",
    "neighbours": "leave-one-out neighbours",
}


@click.command(help=f"What secondlook understands of a network: {', '.join(source.form for source in TABLE)}.")
@click.argument("name")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Labelled images in class folders: measure the preprocessing on them.",
)
@click.option("--split", default="train", show_default=True, help="With --images: train, val or test.")
@click.option(
    "--count", type=click.IntRange(2, MOST), default=MOST, show_default=True, help="With --images: use so many."
)
@preprocess_option
@class_map_option
@click.option(
    "--write-preprocess",
    "write_to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the preprocessing to a new JSON file: with --images the best, else the declared one.",
)
@click.option("--layers", "all_layers", is_flag=True, help="List all layers, not only the last of each shape.")
@max_pixels_option
@json_option
@progress_option
def network(
    name: str,
    images: Path | None,
    split: str,
    count: int,
    preprocess: Path | None,
    class_map: Path | None,
    write_to: Path | None,
    all_layers: bool,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Show what was understood, and with images whether they agree."""
    with reporting(progress_format) as progress:
        names = None if class_map is None else read_class_map(class_map)
        found = open_network(name, preprocess)
        measured = Measured()
        if images is not None:
            choice = Choice() if preprocess is None else None
            measured = _measured(found, images, split, count, names, choice, limits, progress)
        if write_to is not None:
            _write(found.preprocess if measured.proof is None else measured.proof.taken, write_to)
    content = _content(found, measured)
    if as_json or progress_format == "json":
        print_json(**content)
    else:
        _show(found, measured, all_layers=all_layers)


class Measured(NamedTuple):
    """What images said of a network."""

    proof: PreprocessProof | None = None
    match: ClassMatch | None = None
    pool: PoolChoice | None = None


def _measured(
    found: Network,
    folder: Path,
    split: str,
    count: int,
    class_map: Mapping[str, list[str]] | None,
    choice: Choice | None,
    limits: Limits,
    progress: Progress,
) -> Measured:
    dataset = load(str(folder), split, None, limits)
    if not isinstance(dataset, FolderDataset):
        raise no_class_folders(folder)
    match = match_classes(dataset.classes, found.classes, class_map)
    if not isinstance(found, OnnxNetwork):
        return Measured(None, match, None)
    usable = np.arange(len(dataset.labels))
    if match is not None:
        usable = usable[np.isin(dataset.labels, match.known)]
    drawn = draw(dataset, usable, count, found.preprocess.geometry)
    if len(drawn.positions) < 2:
        raise DatasetError(f"{folder} has too few images that can be read: {dataset.left_out.said() or 'add some'}")
    free = choice if match is None else None
    proof = measure(found, drawn.read, drawn.positions, drawn.labels, match, progress, choice=free)
    best = found.taking(proof.taken)
    geometry = best.preprocess.geometry
    pool = best_pool(best, np.stack([drawn.read(position, geometry) for position in drawn.positions]), drawn.labels)
    tell_left_out([dataset])
    return Measured(proof, match, pool)


def _write(preprocess: Preprocess, path: Path) -> None:
    content = preprocess.model_dump_json(exclude={"read_from", "is_certain", "is_published"}, indent=1)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content + "\n")
    except FileExistsError as error:
        raise NetworkError(f"{path} is there already: give --write-preprocess another name") from error


def _content(found: Network, measured: Measured) -> dict[str, Any]:
    default = found.layers()[found.default_layer]
    proof, match, pool = measured
    content: dict[str, Any] = {
        "name": found.name,
        "preprocess": json.loads(found.preprocess.model_dump_json()),
        "classes": None if found.classes is None else list(found.classes),
        "default": {
            "layer": found.default_layer,
            "pool": default_pool(default) if pool is None else pool.pool,
            "pools": {} if pool is None else pool.nll,
        },
        "layers": [
            {"name": name, "kind": layer.kind, "shape": list(layer.shape)} for name, layer in found.layers().items()
        ],
    }
    if isinstance(found, OnnxNetwork):
        taken = found.graph.input
        content["input"] = {
            "name": taken.name,
            "size": list(found.size),
            "layout": taken.layout,
            "dtype": taken.dtype,
            "batch_was": taken.batch,
            "resizes_inside": found.graph.resizes,
        }
    content["matched"] = (
        None if match is None else {"how": match.how, "classes": [list(group) for group in match.groups]}
    )
    content["proof"] = None if proof is None else proof.model_dump(mode="json")
    return content


def _show(found: Network, measured: Measured, *, all_layers: bool) -> None:
    preprocess = found.preprocess
    rows = [("network", found.name)]
    if isinstance(found, OnnxNetwork):
        taken = found.graph.input
        freed = "" if not found.was_freed else f"; was exported for {taken.batch} at a time, now takes any number"
        inside = "; resizes inside" if found.graph.resizes else ""
        rows.append(("input", f"{taken.name}, {taken.dtype}, {taken.layout}{freed}{inside}"))
    rows.append(("images", preprocess.views))
    rows.append(("pixels", str(preprocess.arithmetic)))
    rows.append(("read from", preprocess.read_from or "nowhere: this is what most networks take; see --preprocess"))
    rows.append(("classes", _classes(found.classes)))
    default = found.layers()[found.default_layer]
    choice = measured.pool or PoolChoice(default_pool(default), {})
    how = f", pooled by {choice.pool}" if choice.pool else ""
    if choice.nll:
        how += f" (leave-one-out NLL: {', '.join(f'{way} {nll:.3f}' for way, nll in choice.nll.items())})"
    rows.append(("key", f"{found.default_layer}, {default}{how}"))
    for title, text in rows:
        click.echo(f"{title:>10}  {text}")
    click.echo("    layers")
    listed = found.layers() if all_layers else _last_of_each(found.layers())
    for name, layer in listed.items():
        click.echo(f"            {name}  {layer}")
    if len(listed) < len(found.layers()):
        click.echo(f"            … {len(found.layers()) - len(listed):,} more: --layers lists all")
    if measured.proof is not None:
        _show_proof(measured.proof, measured.match)


def _last_of_each(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The last layer of each shape: what a stage gives."""
    last = {(layer.kind, layer.shape): name for name, layer in layers.items()}
    kept = list(last.values())[-SHOWN:]
    return {name: layer for name, layer in layers.items() if name in kept}


def _classes(names: tuple[str, ...] | None) -> str:
    if names is None:
        return "none: a backbone"
    if names == tuple(map(str, range(len(names)))):
        return f"{len(names):,}, without names"
    more = ", …" if len(names) > 3 else ""
    return f"{len(names):,}: {', '.join(names[:3])}{more}"


def _show_proof(proof: PreprocessProof, match: ClassMatch | None) -> None:
    how = " and ".join(JUDGES[judge] for judge in proof.by)
    if match is not None:
        how += f"; {len(match.known)} of {len(match.groups)} folders are classes of the network's ({match.how})"
    elif "table" in proof.by:
        how += "; no class of the network's is one of the folders': see --class-map"
    click.echo(f"\nmeasured on {proof.images:,} images by {how}: mean negative log-likelihood, less is better")
    for tried in proof.arithmetic:
        click.echo(f"  {tried.nll:8.3f}  {tried.said}: {tried.preprocess.arithmetic}{_of(tried, proof.arithmetic)}")
    for tried in proof.geometry:
        speed = "" if tried.cost == 1 else f", {tried.speed}"
        click.echo(f"  {tried.nll:8.3f}  {tried.said}: {tried.preprocess.views}{speed}{_of(tried, proof.geometry)}")
    click.echo(f"\n{proof.said()}")


def _of(tried: Tried, among: Sequence[Tried]) -> str:
    return "" if tried.images >= among[0].images else f" (far behind on the first {tried.images:,})"

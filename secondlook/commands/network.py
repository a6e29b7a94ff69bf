"""``secondlook network``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from secondlook.commands.shared.options import (
    json_option,
    max_pixels_option,
    print_json,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.walk import read_image
from secondlook.indexer.fitting.preprocessing import Proof, Tried, measure
from secondlook.indexer.progress import Progress
from secondlook.model.errors import DatasetError, ImageError
from secondlook.model.images import Geometry, Limits, decode
from secondlook.model.networks.classes import ClassMatch, match_classes, read_class_map
from secondlook.model.networks.network import Layer, Network, default_pool
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.sources import TABLE, open_network

SHOWN = 24
"""Layers that are listed for people; --json and --layers list all."""


@click.command(help=f"What secondlook understands of a network: {', '.join(source.form for source in TABLE)}.")
@click.argument("name")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Labelled images in class folders: measure the preprocessing on them.",
)
@click.option("--split", default="train", show_default=True, help="With --images: train, val or test.")
@click.option("--count", type=click.IntRange(2), default=200, show_default=True, help="With --images: use so many.")
@click.option(
    "--preprocess",
    "preprocess_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A JSON file that says how images become the network's input; also one that timm or transformers wrote.",
)
@click.option(
    "--class-map",
    "class_map_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --images: lines of a folder's name, TAB, the network's class (name or index).",
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
    preprocess_file: Path | None,
    class_map_file: Path | None,
    all_layers: bool,
    limits: Limits,
    as_json: bool,
    progress_format: str,
) -> None:
    """Show what was understood, and with images whether they agree."""
    with reporting(progress_format) as progress:
        class_map = None if class_map_file is None else read_class_map(class_map_file)
        found = open_network(name, preprocess_file)
        proof = match = None
        if images is not None:
            proof, match = _proof(found, images, split, count, class_map, limits, progress)
    content = _content(found, proof, match)
    if as_json or progress_format == "json":
        print_json(**content)
    else:
        _show(found, proof, match, all_layers=all_layers)


def _proof(
    found: Network,
    folder: Path,
    split: str,
    count: int,
    class_map: Mapping[str, list[str]] | None,
    limits: Limits,
    progress: Progress,
) -> tuple[Proof | None, ClassMatch | None]:
    dataset = load(str(folder), split, None, limits)
    if not isinstance(dataset, FolderDataset):
        raise DatasetError(f"{folder} has no class folders: expected {folder}/<class>/<image>")
    match = match_classes(dataset.classes, found.classes, class_map)
    if not isinstance(found, OnnxNetwork):
        return None, match
    usable = np.arange(len(dataset.labels))
    if match is not None:
        usable = usable[np.isin(dataset.labels, match.known)]
    chosen, decoded = _drawn(dataset, usable, count, found.preprocess.geometry)
    if len(chosen) < 2:
        raise DatasetError(f"{folder} has too few images that can be read: {dataset.left_out.said() or 'add some'}")

    def read(index: int, geometry: Geometry) -> NDArray[np.uint8]:
        if geometry == found.preprocess.geometry:
            return decoded[index]
        return _read(dataset, index, geometry)

    proof = measure(found, read, chosen, dataset.labels[chosen], match, progress)
    tell_left_out([dataset])
    return proof, match


def _drawn(
    dataset: FolderDataset, usable: NDArray[np.int64], count: int, geometry: Geometry
) -> tuple[list[int], dict[int, NDArray[np.uint8]]]:
    """So many images that can be read, as many of each class as there are."""
    random = np.random.default_rng(0)
    of_class = [
        random.permutation(usable[dataset.labels[usable] == label]) for label in np.unique(dataset.labels[usable])
    ]
    order = sorted((place, label, int(index)) for label, of in enumerate(of_class) for place, index in enumerate(of))
    decoded: dict[int, NDArray[np.uint8]] = {}
    for _, _, index in order:
        if len(decoded) == count:
            break
        try:
            decoded[index] = _read(dataset, index, geometry)
        except ImageError as error:
            dataset.left_out.note(dataset.source(index), error)
    return list(decoded), decoded


def _read(dataset: FolderDataset, index: int, geometry: Geometry) -> NDArray[np.uint8]:
    return decode(read_image(dataset.root / dataset.files[index], dataset.limits), geometry, dataset.limits)


def _content(found: Network, proof: Proof | None, match: ClassMatch | None) -> dict[str, Any]:
    default = found.layers()[found.default_layer]
    content: dict[str, Any] = {
        "name": found.name,
        "preprocess": json.loads(found.preprocess.model_dump_json()),
        "classes": None if found.classes is None else list(found.classes),
        "default": {"layer": found.default_layer, "pool": default_pool(default)},
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
    content["proof"] = None if proof is None else _proof_content(proof)
    return content


def _proof_content(proof: Proof) -> dict[str, Any]:
    def one(tried: Tried) -> dict[str, Any]:
        return {
            "said": tried.said,
            "nll": round(tried.nll, 4),
            "behind": round(tried.behind, 2),
            "preprocess": json.loads(tried.preprocess.model_dump_json(exclude={"read_from"})),
        }

    return {
        "images": proof.images,
        "by": proof.by,
        "answer": proof.answer,
        "better": None if proof.better is None else one(proof.better),
        "arithmetic": [one(tried) for tried in proof.arithmetic],
        "geometry": [one(tried) for tried in proof.geometry],
        "suggestion": None if proof.suggestion is None else one(proof.suggestion),
    }


def _show(found: Network, proof: Proof | None, match: ClassMatch | None, *, all_layers: bool) -> None:
    preprocess = found.preprocess
    rows = [("network", found.name)]
    if isinstance(found, OnnxNetwork):
        taken = found.graph.input
        freed = "" if not found.was_freed else f"; was exported for {taken.batch} at a time, now takes any number"
        inside = "; resizes inside" if found.graph.resizes else ""
        rows.append(("input", f"{taken.name}, {taken.dtype}, {taken.layout}{freed}{inside}"))
    rows.append(("images", str(preprocess.geometry)))
    rows.append(("pixels", str(preprocess.arithmetic)))
    rows.append(("read from", preprocess.read_from or "nowhere: this is what most networks take; see --preprocess"))
    rows.append(("classes", _classes(found.classes)))
    default = found.layers()[found.default_layer]
    pool = default_pool(default)
    rows.append(("key", f"{found.default_layer}, {default}" + (f", pooled by {pool}" if pool else "")))
    for title, text in rows:
        click.echo(f"{title:>10}  {text}")
    click.echo("    layers")
    listed = found.layers() if all_layers else _last_of_each(found.layers())
    for name, layer in listed.items():
        click.echo(f"            {name}  {layer}")
    if len(listed) < len(found.layers()):
        click.echo(f"            … {len(found.layers()) - len(listed):,} more: --layers lists all")
    if proof is not None:
        _show_proof(found, proof, match)


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


def _show_proof(found: Network, proof: Proof, match: ClassMatch | None) -> None:
    if match is None:
        how = "leave-one-out neighbours (no class of the network's is one of the folders': see --class-map)"
    else:
        how = f"the head's softmax ({len(match.known)} of {len(match.groups)} folders matched, {match.how})"
    click.echo(f"\nmeasured on {proof.images:,} images by {how}: mean negative log-likelihood, less is better")
    for tried in proof.arithmetic:
        click.echo(f"  {tried.nll:8.3f}  {tried.said}: {tried.preprocess.arithmetic}")
    for tried in proof.geometry:
        click.echo(f"  {tried.nll:8.3f}  {tried.said}: {tried.preprocess.geometry}")
    click.echo(f"\n{verdict(found.preprocess.is_declared, proof)}")


def verdict(is_declared: bool, proof: Proof) -> str:
    """What the photos say, in a sentence or two."""
    better = proof.better
    what = "what is declared" if is_declared else "what most networks take"
    if proof.answer == "confirmed":
        said = f"pixels: the images confirm {what}."
    elif proof.answer == "beaten" and better is not None:
        said = (
            f"pixels: {what} is clearly beaten by {better.preprocess.arithmetic}: "
            f'give it with --preprocess FILE.json ({{"geometry": …, "arithmetic": {_json(better)}}}).'
        )
    else:
        nearest = f" ({better.preprocess.arithmetic} does a little better)" if better is not None else ""
        said = f"pixels: the images cannot tell{nearest}: give more of them, or --preprocess FILE.json."
    if proof.suggestion is not None:
        said += f"\ngeometry: {proof.suggestion.preprocess.geometry} does clearly better on these images."
    return said


def _json(tried: Tried) -> str:
    return tried.preprocess.arithmetic.model_dump_json()

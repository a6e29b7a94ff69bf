"""Keys of single layers, from the first to the last, beside those of several: which layers know most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondlook.evaluation.evaluate import sample
from secondlook.evaluation.studies.curve_points import Point, Queries, merged
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.reading import batches
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.bundles.files import NETWORK
from secondlook.model.cache import softmax
from secondlook.model.memory import check_memory
from secondlook.model.networks.cifar_recipes import cifar_recipe
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.file import load_network
from secondlook.model.networks.recipe import Recipe

BATCH = 64


def default_layers(depth: int) -> list[str]:
    """Name the stem, the first, the middle and the last block of each stage, and the pooled features."""
    last = (depth - 2) // 6
    blocks = sorted({1, last // 2 + 1, last})
    return ["stem", *(f"stage{stage}.block{block}" for stage in (1, 2, 3) for block in blocks), "pool"]


def by_layer(
    bundle: Bundle,
    dataset: Dataset,
    train: Dataset,
    asked: NDArray[np.int64],
    fitted: NDArray[np.int64],
    k: int,
    cached: int | None,
    layers: Sequence[str] | None,
    device: str,
    progress: Progress,
) -> list[Point]:
    """Measure keys of each layer alone, of the paper's three together and of the bundle's recipe, on the same images.

    ``asked`` are positions in ``dataset``, ``fitted`` in the holdout of ``train``, of whose other images so many are
    cached, without and with mirrored copies. No key is kept but those of the images that ask.

    Raises:
        RecipeError: the network has no such layer.
        MemoryLimitError: the keys of the images that ask would not fit.
    """
    manifest = bundle.manifest
    file = load_network(bundle.path / NETWORK)
    network = file.network
    recipes = {name: Recipe(layers=(name,)) for name in (default_layers(network.depth) if layers is None else layers)}
    recipes["the paper's three"] = cifar_recipe("paper", network.depth)
    encoders = {name: Encoder(network, recipe).to(device) for name, recipe in recipes.items()}
    if manifest.recipe not in recipes.values():
        encoders["this bundle's recipe"] = Encoder(network, manifest.recipe, file.projection).to(device)
    names = tuple(dict.fromkeys(layer for encoder in encoders.values() for layer in encoder.recipe.all_layers))
    others = np.setdiff1d(np.arange(len(train.labels)), train.holdout())
    caching = sample(train, cached, others)
    total, done = len(asked) + len(fitted) + len(caching), 0

    def encode(images: NDArray[np.uint8]) -> tuple[Tensor, dict[str, Tensor]]:
        given = network.normalize(torch.from_numpy(images).to(device))
        logits, seen = network.activations(given, names)
        return logits, {name: encoder.keys(seen) for name, encoder in encoders.items()}

    with torch.inference_mode():
        dims = {name: key.shape[1] for name, key in encode(np.zeros((1, *bundle.engine.size, 3), np.uint8))[1].items()}
        check_memory(
            8.0 * sum(dims.values()) * (len(asked) + len(fitted)),
            f"keys of {len(dims)} layers for {len(asked) + len(fitted):,} images",
            "take fewer images or layers",
        )
        logits: list[Tensor] = []
        keys: dict[str, list[Tensor]] = {name: [] for name in encoders}
        labels: list[NDArray[np.int64]] = []
        readable = [0, 0]
        for which, (images, positions) in enumerate(((dataset, asked), (train, fitted))):
            for indices, pixels in batches(images, positions, bundle.geometry, BATCH):
                found, made = encode(pixels)
                logits.append(found.float().cpu())
                labels.append(images.labels[indices])
                for name, key in made.items():
                    keys[name].append(key)
                readable[which] += len(indices)
                done += len(indices)
                progress("layers", done, total)
        queries = Queries(softmax(torch.cat(logits).numpy()), np.concatenate(labels), readable[1])
        asking = {name: torch.cat(keys.pop(name)) for name in encoders}
        nearest = {
            (name, copy): _Nearest(len(queries.labels), k, device) for name in encoders for copy in (False, True)
        }
        entries = 0
        for indices, pixels in batches(train, caching, bundle.geometry, BATCH):
            values = torch.from_numpy(train.labels[indices]).to(device)
            for copy in (False, True):
                seen = np.ascontiguousarray(pixels[:, :, ::-1]) if copy else pixels
                for name, key in encode(seen)[1].items():
                    nearest[name, copy].add(asking[name] @ key.T, values)
            entries += len(indices)
            done += len(indices)
            progress("layers", done, total)
    points = []
    for name in encoders:
        plain, mirrored = (
            (nearest[name, copy].similarities.cpu().numpy(), nearest[name, copy].values.cpu().numpy())
            for copy in (False, True)
        )
        points.append(queries.point(name, plain, k, entries, False, dims[name]))
        points.append(queries.point(name, merged(plain, mirrored, k), k, 2 * entries, True, dims[name]))
    return points


class _Nearest:
    """The k nearest entries so far of n queries, descending."""

    def __init__(self, count: int, k: int, device: str) -> None:
        self.k = k
        self.similarities = torch.empty((count, 0), device=device)
        self.values = torch.empty((count, 0), dtype=torch.int64, device=device)

    def add(self, similarities: Tensor, values: Tensor) -> None:
        """Add entries: similarities (n,m) and their values (m,)."""
        joined = torch.cat((self.similarities, similarities), dim=1)
        labels = torch.cat((self.values, values.expand(len(joined), -1)), dim=1)
        self.similarities, at = joined.topk(min(self.k, joined.shape[1]), dim=1)
        self.values = labels.gather(1, at)

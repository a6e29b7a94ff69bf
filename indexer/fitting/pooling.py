"""Class token or mean of tokens: how the default layer becomes one vector, by measurement."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.fitting.evidence import BATCH, Labels, neighbour_losses
from secondlook.model.cache import Floats
from secondlook.model.networks.keys import pooled, unit
from secondlook.model.networks.network import Network, default_pool
from secondlook.model.networks.recipe import Pool


class PoolChoice(NamedTuple):
    """How a network's default layer is pooled."""

    pool: Pool
    nll: dict[str, float]
    """Of leave-one-out neighbours, for each way that was tried; empty where there is one way only."""


def best_pool(network: Network, images: NDArray[np.uint8], labels: Labels) -> PoolChoice:
    """Choose for images (n,height,width,3), n >= 2, of the geometry's size: the way of the least leave-one-out NLL.

    Tokens with a class token are pooled by ``cls`` or ``mean``; there is one way for all else (``default_pool``).
    """
    name = network.default_layer
    layer, usual = network.layers()[name], default_pool(network.layers()[name])
    if usual != "cls":
        return PoolChoice(usual, {})
    ways: tuple[Pool, ...] = ("cls", "mean")
    keys: dict[Pool, list[Floats]] = {way: [] for way in ways}
    for start in range(0, len(images), BATCH):
        tokens = network.activations(images[start : start + BATCH], (name,)).seen[name]
        for way in ways:
            keys[way].append(unit(pooled(tokens, layer, way)))
    nll = {way: float(neighbour_losses(np.concatenate(parts), labels).mean()) for way, parts in keys.items()}
    return PoolChoice(min(ways, key=lambda way: nll[way]), {str(way): round(nll[way], 4) for way in ways})

"""Keys of activations, in numpy: what every exported encoder is held to, and what reductions are fitted on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secondlook.model.cache import Floats
from secondlook.model.errors import RecipeError
from secondlook.model.networks.network import Layer
from secondlook.model.networks.recipe import Pool, Recipe


def keys_of(
    seen: Mapping[str, Floats], layers: Mapping[str, Layer], recipe: Recipe, projection: Floats | None = None
) -> Floats:
    """Unit keys (B,D) float32 of the activations of a recipe's layers."""
    parts = [pooled(seen[name], layers[name], pool) for name, pool in recipe.layer_parts]
    key = unit(np.concatenate(parts, axis=1))
    if recipe.extra is None:
        return _reduced(key, projection)
    extra = np.float32(recipe.extra_weight) * unit(pooled(seen[recipe.extra], layers[recipe.extra], recipe.extra_pool))
    if recipe.reduce_extra:
        return _reduced(unit(np.concatenate((key, extra), axis=1)), projection)
    return unit(np.concatenate((_reduced(key, projection), extra), axis=1))


def pooled(activation: Floats, layer: Layer, pool: Pool) -> Floats:
    """(B, *shape) -> (B,n): all of it, or averaged over a grid of places, or the class token."""
    count = len(activation)
    if layer.kind == "vector" or pool in (None, "flat"):
        return activation.reshape(count, -1)
    if pool == "cls":
        return activation[:, 0]
    averaged = positions_first(activation, layer).transpose(0, 2, 1) @ grid(
        layer.positions, 1 if pool == "mean" else pool
    )
    return averaged.reshape(count, -1)


def positions_first(activation: Floats, layer: Layer) -> Floats:
    """(B, *shape) of a feature map or tokens -> (B, rows x columns, channels)."""
    if layer.kind == "tokens":
        return activation[:, layer.prefix :]
    if layer.channels_last:
        return activation.reshape(len(activation), -1, layer.channels)
    return activation.reshape(len(activation), layer.channels, -1).transpose(0, 2, 1)


def grid(positions: tuple[int, int], side: object) -> Floats:
    """(rows x columns, side x side): averages over a grid, as adaptive average pooling does."""
    if not isinstance(side, int):
        raise RecipeError(f"a layer is pooled to a grid, 'mean', 'cls' or 'flat', not to {side!r}")
    rows, columns = (_averages(length, side) for length in positions)
    return np.asarray(np.kron(rows, columns).T, np.float32)


def _averages(length: int, side: int) -> Floats:
    made = np.zeros((side, length), np.float32)
    for i in range(side):
        start, stop = i * length // side, -(-(i + 1) * length // side)
        made[i, start:stop] = 1 / (stop - start)
    return made


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def _reduced(key: Floats, projection: Floats | None) -> Floats:
    return key if projection is None else unit(key @ projection.astype(np.float32))

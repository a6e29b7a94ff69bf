"""What a network is, whatever it was made with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats
from secondlook.model.errors import RecipeError
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.recipe import Pool, Recipe

Kind = Literal["feature map", "tokens", "vector"]


class Layer(NamedTuple):
    """A named tensor of a network."""

    shape: tuple[int, ...]
    """Of one image: (D,), (T,D) tokens, or a feature map (C,H,W), (H,W,C) where ``channels_last``."""
    kind: Kind
    channels_last: bool = False
    prefix: int = 0
    """Tokens before those of the image's patches: class and register tokens."""

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns of a feature map or of patches; (1, 1) of a vector."""
        if self.kind == "vector":
            return 1, 1
        if self.kind == "tokens":
            side = round((self.shape[0] - self.prefix) ** 0.5)
            places = self.shape[0] - self.prefix
            return (side, side) if side * side == places else (1, places)
        return (self.shape[0], self.shape[1]) if self.channels_last else (self.shape[1], self.shape[2])

    @property
    def channels(self) -> int:
        """Numbers at each position."""
        return self.shape[0] if self.kind == "feature map" and not self.channels_last else self.shape[-1]

    def width(self, pool: Pool) -> int:
        """Numbers of a part of a key that is made of it."""
        if pool in ("mean", "cls") or self.kind == "vector":
            return self.channels
        if isinstance(pool, int):
            return self.channels * pool * pool
        return int(np.prod(self.shape))

    def __str__(self) -> str:
        """A few words: ``feature map 512 x 7 x 7``."""
        shape = " x ".join(f"{side:,}" for side in self.shape)
        return f"{self.kind} {shape}" + (f", {self.prefix} of them for no patch" if self.prefix else "")


class Activations(NamedTuple):
    """What a network says of B images."""

    logits: Floats | None
    """(B,C) float32; None without a head."""
    seen: dict[str, Floats]
    """The layers asked for, (B, *shape) float32."""


def mean_of(one: Activations, other: Activations) -> Activations:
    """Of an image's activations and its mirrored copy's: what a network says with ``Preprocess.mirrored``."""

    def mean(first: Floats, second: Floats) -> Floats:
        return np.asarray((first + second) * np.float32(0.5), np.float32)

    logits = None if one.logits is None or other.logits is None else mean(one.logits, other.logits)
    return Activations(logits, {name: mean(tensor, other.seen[name]) for name, tensor in one.seen.items()})


class Network(Protocol):
    """Turns images into activations; called from one thread at a time."""

    name: str
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    """Names in the order of the logits; None without a head."""
    default_layer: str
    """What the head reads; the last output of a backbone."""

    def layers(self) -> Mapping[str, Layer]:
        """Candidates for recipes, in the network's order."""
        ...

    def activations(self, images: NDArray[np.uint8], names: Sequence[str] = ()) -> Activations:
        """Of images (B,height,width,3), B >= 1, of the geometry's size; the arithmetic is done here.

        Raises:
            RecipeError: there is no such layer.
        """
        ...


def default_recipe(network: Network) -> Recipe:
    """The input of the head, pooled over positions where it has any: the class token, or the mean."""
    name = network.default_layer
    return Recipe(layers=(name,), pool=(default_pool(network.layers()[name]),))


def default_pool(layer: Layer) -> Pool:
    """How a layer becomes one vector where nothing was measured."""
    if layer.kind == "vector":
        return None
    return "cls" if layer.kind == "tokens" and layer.prefix else "mean"


def check_layers(names: Iterable[str], there: Iterable[str], network: str) -> None:
    """Refuse names of layers that a network does not have.

    Raises:
        RecipeError: names the nearest ones.
    """
    known = list(there)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4) or known[-3:]
            raise RecipeError(
                f"{network} has no layer {name!r}: the nearest are {', '.join(near)}; "
                f"secondlook network {network} lists all of them"
            )


def check_recipe(recipe: Recipe, layers: Mapping[str, Layer], network: str) -> None:
    """Hold a recipe to a network.

    Raises:
        RecipeError: a layer that there is not, a class token where there is none, a grid finer than the layer, or a
            reduction to more numbers than there are.
    """
    check_layers(recipe.all_layers, layers, network)
    for name, pool in recipe.parts:
        layer = layers[name]
        if pool == "cls" and (layer.kind != "tokens" or not layer.prefix):
            raise RecipeError(f"layer {name!r} is a {layer.kind} without a class token: pool it by 'mean'")
        if isinstance(pool, int) and pool > min(layer.positions):
            rows, columns = layer.positions
            raise RecipeError(f"layer {name!r} has {rows} x {columns} positions: pool it to a smaller grid than {pool}")
    wide = sum(layers[name].width(pool) for name, pool in recipe.unreduced.parts)
    if recipe.reduce is not None and recipe.reduce > wide:
        raise RecipeError(
            f"a key cannot be reduced to {recipe.reduce:,} numbers where the layers give {wide:,}: give a smaller "
            "'reduce', or none"
        )


def width_of(recipe: Recipe, layers: Mapping[str, Layer]) -> int:
    """Numbers of a key."""
    parts = sum(layers[name].width(pool) for name, pool in recipe.layer_parts)
    own = parts if recipe.reduce is None else recipe.reduce
    if recipe.extra is None or recipe.reduce_extra:
        return own
    return own + layers[recipe.extra].width(recipe.extra_pool)

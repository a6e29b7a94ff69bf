"""The key recipes of the CIFAR residual networks, by name."""

from __future__ import annotations

from secondlook.model.errors import RecipeError
from secondlook.model.networks.recipe import Recipe

NAMED = ("paper", "compact", "small")
"""The names that there are."""


def cifar_recipe(name: str, depth: int) -> Recipe:
    """A recipe by name, for a ResNet of that depth.

    ``paper``
        Three layers of the last stage, 12,288 numbers: the ones in the author's code for ResNet-20 and ResNet-32,
        the corresponding ones for deeper networks.
    ``compact``
        The same three layers reduced to 256 numbers, and the pooled last features at half weight: D = 320.
    ``small``
        The first of those layers and the pooled last features at half weight, reduced together to 112 numbers: a third
        of the bytes and of the projection, for bundles that travel.

    Raises:
        RecipeError: no such name.
    """
    last = (depth - 2) // 6
    if depth == 20:
        layers: tuple[str, ...] = tuple(f"stage3.block{block}.inner" for block in (1, 2, 3))
    else:
        layers = ("stage3.block1", f"stage3.block{last // 2 + 1}.inner", f"stage3.block{last - 1}")
    match name:
        case "paper":
            return Recipe(layers=layers)
        case "compact":
            return Recipe(layers=layers, reduce=256, extra="pool", extra_weight=0.5)
        case "small":
            return Recipe(layers=layers[:1], reduce=112, extra="pool", extra_weight=0.5, reduce_extra=True)
    raise RecipeError(f"there is no recipe {name!r}: choose {', '.join(NAMED)} or give a JSON file")

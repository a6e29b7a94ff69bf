"""Key recipes: which activations of a network become a key, and how."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.errors import RecipeError


class Recipe(BaseModel):
    """A key = unit(unit(unit(concatenated layers) @ projection) ++ extra_weight * unit(extra layer)).

    Without ``reduce`` there is no projection, without ``extra`` no second part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[str, ...] = Field(min_length=1)
    """Names of layers in the network, concatenated in this order."""
    pool: tuple[int | None, ...] = ()
    """For each layer, the side of the grid that it is average-pooled to, or None for all of it; () = none pooled."""
    reduce: int | None = Field(default=None, ge=1)
    """Numbers kept by an uncentred PCA fitted on training keys."""
    extra: str | None = None
    """A layer appended after the reduction."""
    extra_weight: float = Field(default=0.5, gt=0)

    @model_validator(mode="after")
    def _pool_for_each_layer(self) -> Self:
        if self.pool and len(self.pool) != len(self.layers):
            raise ValueError("pool needs one item for each layer")
        return self

    @property
    def all_layers(self) -> tuple[str, ...]:
        """Every layer that the network must give, without repeats."""
        return tuple(dict.fromkeys((*self.layers, *([self.extra] if self.extra else ()))))


NAMED = ("paper", "compact", "small")


def named_recipe(name: str, depth: int) -> Recipe:
    """A recipe by name, for a ResNet of that depth.

    ``paper``
        Three layers of the last stage, 12,288 numbers: the ones in the author's code for ResNet-20 and ResNet-32,
        the corresponding ones for deeper networks.
    ``compact``
        The same three layers reduced to 256 numbers, and the pooled last features at half weight: D = 320.
    ``small``
        The same from layers pooled to 4x4 and reduced to 128 numbers, D = 192: its projection is eight times smaller,
        for bundles that travel.

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
            return Recipe(layers=layers, pool=(4, 4, 4), reduce=128, extra="pool", extra_weight=0.5)
    raise RecipeError(f"there is no recipe {name!r}: choose {', '.join(NAMED)} or give a JSON file")

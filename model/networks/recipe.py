"""Key recipes: which activations of a network become a key, and how."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Pool = int | Literal["flat", "mean", "cls"] | None
"""How a layer becomes numbers: averaged over a grid of that many rows and columns, or over all positions; the class
token; or (``flat``, None) all of it."""


class Recipe(BaseModel):
    """A key = unit(unit(unit(concatenated layers) @ projection) ++ extra_weight * unit(extra layer)).

    Without ``reduce`` there is no projection, without ``extra`` no second part. With ``reduce_extra`` the projection is
    of both: unit(unit(unit(concatenated layers) ++ extra_weight * unit(extra layer)) @ projection).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[str, ...] = Field(min_length=1)
    """Names of layers in the network, concatenated in this order."""
    pool: tuple[Pool, ...] = ()
    """For each layer; () = none pooled."""
    reduce: int | None = Field(default=None, ge=1)
    """Numbers kept by an uncentred PCA fitted on training keys."""
    extra: str | None = None
    """A layer appended after the reduction."""
    extra_pool: Pool = None
    extra_weight: float = Field(default=0.5, gt=0)
    reduce_extra: bool = False
    """Whether the reduction is of layers and extra part together."""

    @model_validator(mode="after")
    def _pool_for_each_layer(self) -> Self:
        if self.pool and len(self.pool) != len(self.layers):
            raise ValueError("pool needs one item for each layer")
        if any(isinstance(pool, int) and pool < 1 for pool in (*self.pool, self.extra_pool)):
            raise ValueError("a layer is pooled to a grid of at least one row")
        if self.reduce_extra and (self.reduce is None or self.extra is None):
            raise ValueError("reduce_extra needs both reduce and extra")
        return self

    @property
    def unreduced(self) -> Recipe:
        """What a projection is fitted on."""
        if self.reduce_extra:
            return self.model_copy(update={"reduce": None, "reduce_extra": False})
        return Recipe(layers=self.layers, pool=self.pool)

    @property
    def layer_parts(self) -> tuple[tuple[str, Pool], ...]:
        """Each of the layers, and how it is pooled."""
        return tuple(zip(self.layers, self.pool or (None,) * len(self.layers), strict=True))

    @property
    def parts(self) -> tuple[tuple[str, Pool], ...]:
        """The same, and the extra part."""
        return (*self.layer_parts, *([(self.extra, self.extra_pool)] if self.extra else ()))

    @property
    def all_layers(self) -> tuple[str, ...]:
        """Every layer that the network must give, without repeats."""
        return tuple(dict.fromkeys((*self.layers, *([self.extra] if self.extra else ()))))

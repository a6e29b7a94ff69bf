"""Key recipes: which activations of a network become a key, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

Pool = int | Literal["flat", "mean", "cls"] | None
"""How a layer becomes numbers: averaged over a grid of that many rows and columns, or over all positions; the class
token; or (``flat``, None) all of it."""


@dataclass(frozen=True)
class Recipe:
    """A key = unit(unit(unit(concatenated layers) @ projection) ++ extra_weight * unit(extra layer)).

    Without ``reduce`` there is no projection, without ``extra`` no second part. With ``reduce_extra`` the projection is
    of both: unit(unit(unit(concatenated layers) ++ extra_weight * unit(extra layer)) @ projection).

    A dataclass of Python's own, which pydantic reads as a part of a manifest: where a GPU is measured there may be
    PyTorch alone (``benchmarks.gpu``).

    Raises:
        ValueError: no layer, numbers out of their range, or parts that do not belong together.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    layers: tuple[str, ...]
    """Names of layers in the network, concatenated in this order."""
    pool: tuple[Pool, ...] = ()
    """For each layer; () = none pooled."""
    reduce: int | None = None
    """Numbers kept by an uncentred PCA fitted on training keys."""
    extra: str | None = None
    """A layer appended after the reduction."""
    extra_pool: Pool = None
    extra_weight: float = 0.5
    reduce_extra: bool = False
    """Whether the reduction is of layers and extra part together."""

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        if not self.layers:
            raise ValueError("a key is made of at least one layer")
        if self.reduce is not None and self.reduce < 1:
            raise ValueError("reduce is at least 1")
        if not self.extra_weight > 0:
            raise ValueError("extra_weight is above 0")
        if self.pool and len(self.pool) != len(self.layers):
            raise ValueError("pool needs one item for each layer")
        if any(isinstance(pool, int) and pool < 1 for pool in (*self.pool, self.extra_pool)):
            raise ValueError("a layer is pooled to a grid of at least one row")
        if self.reduce_extra and (self.reduce is None or self.extra is None):
            raise ValueError("reduce_extra needs both reduce and extra")

    @property
    def unreduced(self) -> Recipe:
        """What a projection is fitted on."""
        if self.reduce_extra:
            return replace(self, reduce=None, reduce_extra=False)
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

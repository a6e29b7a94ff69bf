"""What a manifest says of how a bundle's parameters and its linear head were fitted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )


class ClassFigures(Part):
    """How a class's own images were answered."""

    label: str
    images: int
    right: int
    confused: tuple[tuple[str, int], ...] = ()
    """What the others were taken for, and how often, most first."""


class FitReport(Part):
    """What ``fit`` tried on the holdout, and what came of it: grids are indexed [k][theta][lam]."""

    images: int
    entries: int
    ks: tuple[int | None, ...]
    thetas: tuple[float, ...]
    lams: tuple[float, ...]
    error_percent: tuple[tuple[tuple[float, ...], ...], ...]
    nll: tuple[tuple[tuple[float, ...], ...], ...]
    """By ``leave-one-out`` the cache was tried beside a network that says nothing: errors are the cache's own."""
    network_error_percent: float | None
    """By ``leave-one-out``, on images that it may know by heart."""
    chosen_error_percent: float
    chosen_nll: float
    network_nll: float | None = None
    network_ece_percent: float | None = None
    chosen_ece_percent: float | None = None
    fewer_errors: tuple[float, float] | None = None
    """By how many points the mixture errs less than the network there, 95 % interval; None where that cannot be told.
    """
    classes: tuple[ClassFigures, ...] = ()
    """How the images that it was fitted on were answered, as the bundle answers, by class in the bundle's order; none
    where no honest answers are known, and in bundles from before there were such figures."""

    @property
    def gains(self) -> bool | None:
        """Whether the cache is seen to save errors; None where that cannot be told."""
        return None if self.fewer_errors is None else self.fewer_errors[0] > 0


class HoldoutInfo(Part):
    """What parameters were fitted on."""

    name: str
    images: int
    honest: bool | None
    """Whether neither the network was trained on them nor the cache holds them; None = that was not asked yet."""
    why: str = ""
    """How that is known, as a clause."""
    left_out: int = 0
    """Images of it that the cache has too, and that were left out."""


class TriedStrength(Part):
    """A strength of a linear head that was tried."""

    strength: float = Field(gt=0)
    nll: float
    """Mean negative log-likelihood of images that took no part in its fit."""


class LinearHead(Part):
    """A multinomial logistic regression of the keys, in the encoder as its logits."""

    strength: float = Field(gt=0)
    """C, the inverse of the penalty on its weights."""
    chosen_by: Literal["cross-validation", "given"]
    folds: int = Field(ge=0)
    """Of the cross-validation; 0 = none, for want of images."""
    tried: tuple[TriedStrength, ...] = ()
    images: int
    """Entries that it was fitted on."""
    few: tuple[int, ...] = ()
    """Places of classes, of those of its logits, that it was not fitted to, for want of pictures: it gives them next to
    nothing, and the cache alone knows them."""
    less_tenth: bool = False
    """Whether the dataset's tenth, by which theta and lam were fitted, took no part."""

"""Preprocessing as one record: how an image becomes a network's input. Data, never code: JSON in and out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from secondlook.model.cache import Floats
from secondlook.model.images.geometry import Geometry

Triple = tuple[float, float, float]
Channels = Literal["RGB", "BGR"]
Layout = Literal["NCHW", "NHWC"]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Arithmetic(BaseModel):
    """What a network is given for each sample 0..255: (sample * scale - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(default=1 / 255, gt=0, allow_inf_nan=False)
    mean: Triple = (0.0, 0.0, 0.0)
    """For each channel, in the network's order of channels."""
    std: Triple = (1.0, 1.0, 1.0)
    channels: Channels = "RGB"
    layout: Layout = "NCHW"

    @model_validator(mode="after")
    def _numbers_that_divide(self) -> Self:
        if not all(np.isfinite((*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("mean and std are three finite numbers each, and those of std are above 0")
        return self

    @property
    def factors(self) -> tuple[Floats, Floats]:
        """a, b (3,) float32 so that the network is given a * sample + b, in its own order of channels."""
        std = np.array(self.std)
        return (self.scale / std).astype(np.float32), (-np.array(self.mean) / std).astype(np.float32)

    def apply(self, images: NDArray[np.uint8]) -> Floats:
        """Images (B,H,W,3) RGB to what the network takes: float32, (B,3,H,W) where its layout is NCHW."""
        a, b = self.factors
        ordered = images if self.channels == "RGB" else images[..., ::-1]
        values = ordered.astype(np.float32) * a + b
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else values

    @property
    def is_plain(self) -> bool:
        """Whether the network takes samples as they are: 0..255, red first."""
        return self.scale == 1 and not any(self.mean) and set(self.std) == {1.0} and self.channels == "RGB"

    def __str__(self) -> str:
        """A few words: ``RGB, (x/255 - .485 .456 .406) / .229 .224 .225``."""
        sample = "x" if self.scale == 1 else f"x/{1 / self.scale:g}" if self.scale < 1 else f"{self.scale:g} x"
        said = sample
        if any(self.mean):
            said = f"({sample} - {_numbers(self.mean)})"
        if set(self.std) != {1.0}:
            said = f"{said} / {_numbers(self.std)}"
        return f"{self.channels}, {said}"


class Preprocess(BaseModel):
    """Geometry, arithmetic, whether the mirrored copy is asked too, and where that was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    geometry: Geometry
    arithmetic: Arithmetic = Arithmetic()
    mirrored: bool = False
    """Whether features and logits are the mean of those of the image and of its mirrored copy: twice the work."""
    read_from: str | None = None
    """None: nowhere, it is only what most networks take."""
    is_certain: bool = False
    """Whether it is to be taken whatever images say of it; only a person's own file says so."""
    is_published: bool = False
    """Whether its arithmetic is that which its weights were published with: images are not asked of it."""

    @property
    def is_declared(self) -> bool:
        """Whether somebody said so."""
        return self.read_from is not None

    @property
    def views(self) -> str:
        """How an image is shown to the network, in a few words: ``224 x 224, squash, bicubic, mean with ...``."""
        return f"{self.geometry}{', mean with the mirrored photo' if self.mirrored else ''}"

    @property
    def work(self) -> int:
        """Pixels that the network looks at for an image."""
        return self.geometry.height * self.geometry.width * (2 if self.mirrored else 1)

    def with_arithmetic(self, **fields: object) -> Preprocess:
        """The same with other arithmetic."""
        return self.model_copy(update={"arithmetic": self.arithmetic.model_copy(update=fields)})

    def with_geometry(self, **fields: Any) -> Preprocess:
        """The same with other geometry.

        Raises:
            ValueError: that is none.
        """
        return self.model_copy(update={"geometry": replace(self.geometry, **fields)})


CIFAR = Preprocess(
    geometry=Geometry.covering(32, 32),
    arithmetic=Arithmetic(scale=1.0, layout="NHWC"),
    read_from="the CIFAR family: its networks normalise pixels themselves",
)


def _numbers(values: Triple) -> str:
    shown = [f"{value:.4g}" for value in values]
    shown = [text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text for text in shown]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)

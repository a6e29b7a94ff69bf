"""Geometry: how an image of any size becomes one of a network's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from annotated_types import Interval
from PIL import Image

Rule = Literal["crop", "cover", "squash", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

MOST_SIDE = 4096
Side = Annotated[int, Interval(ge=1, le=MOST_SIDE)]
Sample = Annotated[int, Interval(ge=0, le=255)]


class _Filter(NamedTuple):
    resampling: Image.Resampling
    support: float
    """How far it reaches, in pixels of the smaller of the two sizes."""


_FILTERS: dict[Interpolation, _Filter] = {
    "nearest": _Filter(Image.Resampling.NEAREST, 0.5),
    "box": _Filter(Image.Resampling.BOX, 0.5),
    "bilinear": _Filter(Image.Resampling.BILINEAR, 1.0),
    "hamming": _Filter(Image.Resampling.HAMMING, 1.0),
    "bicubic": _Filter(Image.Resampling.BICUBIC, 2.0),
    "lanczos": _Filter(Image.Resampling.LANCZOS, 3.0),
}


class Placement(NamedTuple):
    """Where which part of one image lies in the network's input."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the part, in pixels of the image."""
    size: tuple[int, int]
    """Width and height that the part is scaled to."""
    offset: tuple[int, int]
    """Where its left upper corner lies; what it leaves free is filled."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What of an image a network sees, and at which size.

    ``crop``
        As torchvision, timm and transformers do: the shorter side is scaled to round(side / crop_share) whole pixels,
        the longer one with it, rounded down; then the centre is cut out.
    ``cover``
        The same without rounding to whole pixels in between: the image covers the target, the centre is what is left.
    ``squash``
        Both sides are scaled to round(side / crop_share), whatever the image's shape; then the centre is cut out.
    ``pad``
        The whole image is scaled until it fits, and lies in the middle of ``fill``.

    Filters are Pillow's: where an image is made smaller, they look at all pixels between (antialiasing).

    Pydantic reads it as a part of records, and is not needed here: decoders do without.

    Raises:
        ValueError: a field is out of its range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    height: Side
    width: Side
    rule: Rule = "crop"
    crop_share: Annotated[float, Interval(gt=0.1, le=1.0)] = 1.0
    """How much of the scaled image's side the network sees: 224 / 256 = .875."""
    interpolation: Interpolation = "bilinear"
    fill: tuple[Sample, Sample, Sample] = (0, 0, 0)
    """RGB around a padded image."""

    @classmethod
    def covering(cls, height: int, width: int) -> Self:
        """The geometry by which an image covers a size, scaled with a bicubic filter, and shows its centre."""
        return cls(height=height, width=width, rule="cover", interpolation="bicubic")

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not isinstance(side, int) or not 1 <= side <= MOST_SIDE:
                raise ValueError(f"{name} is {side!r}, and must be a whole number of 1 to {MOST_SIDE}")
        if self.rule not in get_args(Rule) or self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"there is no {self.rule!r} with {self.interpolation!r}: choose {', '.join(get_args(Rule))} and "
                f"{', '.join(get_args(Interpolation))}"
            )
        if not 0.1 < self.crop_share <= 1:
            raise ValueError(f"crop_share is {self.crop_share!r}, and must be above 0.1, at most 1")
        if len(self.fill) != 3 or not all(isinstance(sample, int) and 0 <= sample <= 255 for sample in self.fill):
            raise ValueError(f"fill is {self.fill!r}, and must be three samples of 0 to 255")
        if self.rule == "pad" and self.crop_share != 1:
            raise ValueError("a padded image is not cropped: crop_share must be 1")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width that an image is scaled to before anything is cut off (of ``crop``: at least)."""
        return round(self.height / self.crop_share), round(self.width / self.crop_share)

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's filter."""
        return _FILTERS[self.interpolation].resampling

    @property
    def support(self) -> float:
        """How many pixels the filter reaches to each side, of the larger pixels of the two sizes."""
        return _FILTERS[self.interpolation].support

    def place(self, across: int, down: int) -> Placement:
        """Where an image of so many pixels across and down lies."""
        width, height = self.width, self.height
        match self.rule:
            case "cover":
                return Placement(self._middle(across, down), (width, height), (0, 0))
            case "pad":
                ratio = min(width / across, height / down)
                size = min(width, max(1, round(across * ratio))), min(height, max(1, round(down * ratio)))
                offset = round((width - size[0]) * 0.5), round((height - size[1]) * 0.5)
                return Placement((0.0, 0.0, float(across), float(down)), size, offset)
            case "squash":
                tall, wide = self.scaled
            case "crop":
                tall, wide = self.scaled
                if wide * down >= tall * across:  # the width has to be scaled by more
                    tall = max(tall, int(wide * down / across))
                else:
                    wide = max(wide, int(tall * across / down))
        left, top = round((wide - width) / 2), round((tall - height) / 2)
        x, y = across / wide, down / tall
        return Placement((left * x, top * y, (left + width) * x, (top + height) * y), (width, height), (0, 0))

    def keeps(self, across: int, down: int) -> bool:
        """Whether an image of so many pixels across and down stays as it is."""
        place = self.place(across, down)
        return place.box == (0, 0, across, down) and place.size == (across, down) == (self.width, self.height)

    def _middle(self, across: int, down: int) -> tuple[float, float, float, float]:
        ratio = self.width / self.height
        if across / down >= ratio:
            part = (ratio * down, float(down)) if across / down != ratio else (float(across), float(down))
        else:
            part = (float(across), across / ratio)
        part = part[0] * self.crop_share, part[1] * self.crop_share
        left, top = (across - part[0]) * 0.5, (down - part[1]) * 0.5
        return left, top, left + part[0], top + part[1]

    def __str__(self) -> str:
        """A few words: ``224 x 224, crop .875, bicubic``."""
        share = "" if self.crop_share == 1 else f" {self.crop_share:.3g}".replace(" 0.", " .")
        return f"{self.height} x {self.width}, {self.rule}{share}, {self.interpolation}"


SMALL = Geometry.covering(32, 32)
"""For those who only want to know whether an image can be decoded."""

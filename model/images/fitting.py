"""A decoded image of any mode to RGB of the network's size, in bands, so that no copy of the whole image is made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from secondlook.model.errors import ImageError
from secondlook.model.images.geometry import Geometry

WHOLE = 1 << 21
"""Pixels up to which an image is scaled at once."""
BAND = 1 << 19
"""Pixels that are converted at once."""

_ALL, _INCLUDED = 8 << 20, 6 << 20
"""Bytes for all that is held whatever the image, and how many of them are for scaling it."""

_ROW = 16
"""Bytes by which Pillow finds a row, where it makes an image."""

INVERTED = "inverted"
"""The key of an image's info that says that 0 is white."""

_WHITE = (255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def fit(
    image: Image.Image,
    geometry: Geometry,
    orientation: int = 1,
    canvas: tuple[int, int] | None = None,
    offset: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """Turn an image of any mode, scale and cut it as the geometry says.

    It lies on white: where it is transparent, and where a canvas (width, height) is larger than an image at offset.
    Returns uint8 RGB (height, width, 3). A large image that is not RGB is scaled across band by band, then down; one
    that is narrower than the target, and so would grow by that, in strips of the target's rows. Pillow does the same
    with whole images, but goes down first with tall ones, which changes pixels by 2 of 255 at most.

    Raises:
        ImageError: its samples have no agreed range.
    """
    stored = canvas or image.size
    across, down = stored[::-1] if orientation >= 5 else stored
    resampling = geometry.resampling

    def piece(box: Box) -> Image.Image:
        source = _before_turning(box, orientation, stored)
        part = _on_canvas(image, source, offset) if canvas else _to_rgb(_crop(image, source))
        return part.transpose(_TURNS[orientation]) if orientation in _TURNS else part

    (left, top, right, bottom), (width, height), corner = place = geometry.place(across, down)
    is_plain = image.mode in ("RGB", "L") and not canvas and not image.has_transparency_data
    if is_plain and orientation == 1:
        scaled = image if geometry.keeps(*image.size) else image.resize(place.size, resampling, place.box)
        return _framed(scaled if scaled.mode == "RGB" else scaled.convert("RGB"), corner, geometry)
    if across * down <= WHOLE:
        bands = [(0, down)] if is_plain else list(_bands(across, 0, down))
        turned = piece((0, 0, across, down)) if len(bands) == 1 else Image.new("RGB", (across, down))
        for start, stop in bands if len(bands) > 1 else ():
            turned.paste(piece((0, start, across, stop)), (0, start))
        return _framed(turned.resize(place.size, resampling, place.box), corner, geometry)
    x0, x1 = _reach(left, right, width, across, geometry.support)
    y0, y1 = _reach(top, bottom, height, down, geometry.support)
    if _in_strips(x1 - x0, y1 - y0, width):
        whole, step = Image.new("RGB", (width, height)), (bottom - top) / height
        for first, last in _strips(x1 - x0, step, height, geometry.support):
            above, below = top + first * step, min(float(down), top + last * step)
            start, stop = _reach(above, below, last - first, down, geometry.support)
            strip = piece((x0, start, x1, stop))
            box = (left - x0, above - start, right - x0, below - start)
            whole.paste(strip.resize((width, last - first), resampling, box), (0, first))
        return _framed(whole, corner, geometry)
    narrow = Image.new("RGB", (width, y1 - y0))
    for start, stop in _bands(x1 - x0, y0, y1):
        band = piece((x0, start, x1, stop))
        scaled = band.resize((width, stop - start), resampling, (left - x0, 0, right - x0, stop - start))
        narrow.paste(scaled, (0, start - y0))
    narrow = narrow.resize((width, height), resampling, (0, top - y0, width, bottom - y0))
    return _framed(narrow, corner, geometry)


def _framed(image: Image.Image, corner: tuple[int, int], geometry: Geometry) -> NDArray[np.uint8]:
    """An image as it is, or, where it is smaller than the target, in a frame."""
    if image.size == (geometry.width, geometry.height):
        return np.array(image)
    frame = Image.new("RGB", (geometry.width, geometry.height), geometry.fill)
    frame.paste(image, corner)
    return np.array(frame)


def spare(across: int, down: int, geometry: Geometry) -> int:
    """Bytes that ``fit`` holds at most beside an image of so many pixels across and down, turned or not."""
    pixels = across * down
    scaling = max(_scaling(across, down, geometry), _scaling(down, across, geometry))
    return 4 * min(pixels, WHOLE) + 24 * min(pixels, BAND) + _ALL + max(0, scaling - _INCLUDED)


def large(geometry: Geometry) -> int:
    """Bytes by which ``spare`` may be more for a geometry than for 560 x 560, of images of up to a megapixel."""
    return max(0, 18 * geometry.height * geometry.width - _INCLUDED)


def _scaling(across: int, down: int, geometry: Geometry) -> int:
    """The target in all forms that it takes, what is scaled one way alone, the filter's weights, and a large strip."""
    (left, top, right, bottom), (width, height), _ = geometry.place(across, down)
    x0, x1 = _reach(left, right, width, across, geometry.support)
    y0, y1 = _reach(top, bottom, height, down, geometry.support)
    columns, rows = x1 - x0, y1 - y0
    target = 16 * geometry.width * geometry.height
    weights = ceil(16 * geometry.support) * (max(columns, width) + max(rows, height))
    if not _in_strips(columns, rows, width):
        return target + weights + (4 * width + _ROW) * rows
    strip = columns * ceil(2 * geometry.support * max(1.0, (bottom - top) / height) + 5)
    return target + weights + 4 * columns * height + 24 * max(0, min(strip, columns * rows) - BAND)


def _in_strips(columns: int, rows: int, width: int) -> bool:
    """Whether a part of an image is scaled both ways at once, as it would become far larger by the first way."""
    return columns < width and width * rows > WHOLE


def _strips(columns: int, step: float, height: int, support: float) -> Iterator[tuple[int, int]]:
    """Rows of a target that is ``height`` high, a row for each ``step`` of the image's, so many that a BAND has."""
    per = max(1, int((BAND / columns - 2 * support * max(1.0, step) - 5) / step))
    for first in range(0, height, per):
        yield first, min(first + per, height)


def _bands(width: int, top: int, bottom: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BAND // width)
    for start in range(top, bottom, rows):
        yield start, min(start + rows, bottom)


def _reach(start: float, stop: float, target: int, available: int, support: float) -> tuple[int, int]:
    """The pixels of one side that a filter looks at."""
    support = support * max(1.0, (stop - start) / target) + 2.0
    return max(0, floor(start - support)), min(available, ceil(stop + support))


def _before_turning(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """Where a part of the turned image lies in the image as stored, of size (width, height)."""
    (x0, y0, x1, y1), (width, height) = box, size
    if orientation >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return x0, y0, x1, y1


def _crop(image: Image.Image, box: Box) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _on_canvas(image: Image.Image, box: Box, offset: tuple[int, int]) -> Image.Image:
    x0, y0, x1, y1 = box
    part = Image.new("RGB", (x1 - x0, y1 - y0), _WHITE)
    x, y = offset
    inside = (max(x0 - x, 0), max(y0 - y, 0), min(x1 - x, image.width), min(y1 - y, image.height))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part.paste(_to_rgb(_crop(image, inside)), (inside[0] + x - x0, inside[1] + y - y0))
    return part


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        return _from_float(image).convert("RGB")
    if image.mode == "I":
        raise ImageError("the image has samples of 32 bits, which have no agreed range: save it with 8 or 16 bits")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*_WHITE, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling, and knows of no transparent colour.
    samples = np.asarray(image)
    scaled = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.info.get(INVERTED):
        scaled = 255 - scaled
    if "transparency" in image.info:
        scaled[samples == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def lay_on_white(upper: Image.Image, lower: Image.Image, colour: tuple[int, ...]) -> None:
    """Make pixels of one 16-bit colour white in an RGB image of the samples' upper bytes, given that of the lower."""
    for start, stop in _bands(upper.width, 0, upper.height):
        box = (0, start, upper.width, stop)
        is_clear = np.ones((stop - start, upper.width), bool)
        for image, shift in ((upper, 8), (lower, 0)):
            is_clear &= (np.asarray(image.crop(box)) == [sample >> shift & 255 for sample in colour]).all(axis=2)
        upper.paste(_WHITE, box, Image.fromarray(is_clear))


def _from_float(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if not (samples.min() >= 0 and samples.max() <= 1):  # of NaN too
        raise ImageError("the image has floating-point samples outside of 0 to 1: save it with 8 or 16 bits")
    return Image.fromarray((samples * np.float32(255) + np.float32(0.5)).astype(np.uint8))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, _lab_transform())
    assert converted is not None
    return converted


@cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")

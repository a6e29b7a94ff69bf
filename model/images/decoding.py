"""From a file's bytes to the encoder's pixels."""

from __future__ import annotations

import io
import warnings
from math import ceil
from typing import Any

import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageChops
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from secondlook.model.errors import ImageError
from secondlook.model.images import jpeg, png, simple, tiff
from secondlook.model.images.exif import orientation
from secondlook.model.images.fitting import INVERTED, fit, lay_on_white, spare
from secondlook.model.images.formats import FORMATS, Header, Inspected, Limits, sniff
from secondlook.model.images.geometry import Geometry

# Pillow's own check stands inside open(), before ours on the header, and is bound to another number of pixels.
Image.MAX_IMAGE_PIXELS = None
# Not one for each processor, which would make an image's memory the machine's: whoever decodes many has others for it.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Such as of damaged EXIF data: nothing that a server's log needs once for each upload. Set once, because
# warnings.catch_warnings changes the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

DRAFT = 2
"""How many times the target a JPEG is at least decoded at, before it is scaled down. Against decoding all of it, pixels
differ by 0.3 of 255 on average and by 2 at most (by 1.0 and 9 if it were once the target), and 12 megapixels for a
target of 224 take 77 ms instead of 360 (four times: 139)."""

USUAL = Geometry.covering(560, 560)
"""What a header tells the cost for where no geometry is given."""

MISSING = 1 / 8
"""The part of a JPEG's rows, at its end, without which it is still answered: most of what is seen is there."""


def read_header(data: bytes, limits: Limits, geometry: Geometry | None = None) -> Header:
    """Read what a file says of its image, without decoding any pixel of it.

    ``peak_bytes`` holds for any image that is to cover up to 560 x 560 pixels, or for the geometry that is given: a
    JPEG that is much larger takes less.

    Raises:
        ImageError: empty, not one of the formats, damaged before its pixels, or made to cost far more than it shows.
        ImageTooLargeError: more pixels than the limit.
    """
    format = _format(data)
    try:
        found = _inspect(format, data, limits)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(format) from error
    width, height = found.width, found.height
    copied = 0 if found.data is data else len(found.data)
    # Decoders hold rows, and Pillow the place of each: what counts where an image has one row, or one column.
    pixels = width * height
    part = _fraction(width, height, geometry) if found.scalable and geometry is not None else 1
    across, down = ceil(width / part), ceil(height / part)
    decoded = (found.bytes_per_pixel - found.scalable) * pixels + found.scalable * across * down
    held = int(decoded) + 16 * width + 12 * height + spare(across, down, geometry or USUAL)
    return Header(format, width, height, copied + held)


def _fraction(width: int, height: int, geometry: Geometry) -> int:
    """One of how many pixels of a side a JPEG is decoded to, as ``draft`` chooses."""
    tall, wide = geometry.scaled
    most = min(width // (DRAFT * wide), height // (DRAFT * tall))
    return next(scale for scale in (8, 4, 2, 1) if most >= scale or scale == 1)


def decode(data: bytes, geometry: Geometry, limits: Limits) -> NDArray[np.uint8]:
    """Decode one image (the first of several) to RGB, shape (height, width, 3).

    EXIF orientation is applied, transparent pixels are laid on white, 16-bit samples are scaled to 8, and any other
    colour space is converted. JPEGs much larger than the target are decoded at a fraction of their size. Whatever
    embeds images and whatever answers must decode them here, or keys and queries would differ.

    Raises:
        ImageError: as ``read_header``, or damaged or cut short among its pixels.
        ImageTooLargeError: more pixels than the limit, by its header.
    """
    format = _format(data)
    try:
        return _decode(format, data, geometry, limits)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("decoding the image takes more memory than its size should need") from error
    except Exception as error:
        # Decoders meet hostile bytes with errors of many kinds (struct, value, index, OS, syntax); all mean the same.
        raise _damaged(format) from error


def _format(data: bytes) -> str:
    if not data:
        raise ImageError("the file is empty")
    format = sniff(data[:64])
    if format is None:
        raise ImageError(f"the file is not one of {', '.join(FORMATS)}")
    return format


def _damaged(format: str) -> ImageError:
    return ImageError(f"the image is damaged or cut short ({format})")


def _inspect(format: str, data: bytes, limits: Limits) -> Inspected:
    match format:
        case "JPEG":
            return jpeg.inspect(data, limits)
        case "PNG":
            return png.inspect(data, limits)
        case "GIF":
            return simple.inspect_gif(data, limits)[0]
        case "BMP":
            return simple.inspect_bmp(data, limits)
        case "WEBP":
            return simple.inspect_webp(data, limits)
        case "TIFF":
            return tiff.inspect(data, limits)
        case "AVIF":
            return _sized(AvifImageFile(io.BytesIO(data)).size, 18, data, limits)
        case _:
            return _sized(_heif(data).size, 18, data, limits)


def _sized(size: tuple[int, int], bytes_per_pixel: float, data: bytes, limits: Limits) -> Inspected:
    limits.check(*size)
    return Inspected(*size, bytes_per_pixel, data)


def _decode(format: str, data: bytes, geometry: Geometry, limits: Limits) -> NDArray[np.uint8]:
    if format == "GIF":
        found, frame = simple.inspect_gif(data, limits)
        return fit(_loaded(GifImageFile, found.data), geometry, canvas=frame.canvas, offset=frame.offset)
    found = _inspect(format, data, limits)
    match format:
        case "JPEG":
            image = _jpeg(found.data, geometry)
            if found.is_cut:
                _check_rows(image, _jpeg(found.data.removesuffix(jpeg.END) + jpeg.FILL + jpeg.END, geometry))
            return fit(image, geometry, found.orientation)
        case "PNG":
            return fit(_png(found.data), geometry, found.orientation)
        case "BMP":
            image = _loaded(BmpImageFile, found.data)
            if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
                image.putalpha(255)  # whoever wrote it knew of no alpha
            return fit(image, geometry)
        case "WEBP":
            image = _loaded(WebPImageFile, found.data)
            return fit(image, geometry, orientation(image.info.get("exif", b"")))
        case "TIFF":
            image = _loaded(TiffImageFile, found.data)
            if image.mode.startswith("I;16") and tiff.is_white_zero(found.data):
                image.info[INVERTED] = True
            return fit(image, geometry, found.orientation)
        case "AVIF":
            image = _loaded(AvifImageFile, found.data)
            return fit(image, geometry, orientation(image.info.get("exif", b"")))
        case _:
            return fit(_heif(found.data).to_pillow(), geometry)


def _loaded(kind: type[ImageFile], data: bytes) -> Image.Image:
    image = kind(io.BytesIO(data))
    image.load()
    return image


def _jpeg(data: bytes, geometry: Geometry) -> Image.Image:
    image = JpegImageFile(io.BytesIO(data))
    # libjpeg can decode at 1/2, 1/4 or 1/8 of the size.
    height, width = geometry.scaled
    image.draft(None, (DRAFT * width, DRAFT * height))
    image.load()
    return image


def _check_rows(image: Image.Image, filled: Image.Image) -> None:
    """Refuse an image that was cut short where many of its rows are missing: those that what was filled in changes."""
    for top in range(0, image.height, 64):
        box = (0, top, image.width, min(top + 64, image.height))
        differing = ImageChops.difference(image.crop(box), filled.crop(box)).getbbox()
        if differing:
            there = (top + differing[1]) / image.height
            if there < 1 - MISSING:
                raise ImageError(f"the JPEG is cut short: only the upper {there:.0%} of the image is there")
            return


def _png(data: bytes) -> Image.Image:
    image = _loaded(PngImageFile, data)
    colour, depth = png.transparent(data), data[24]
    if colour is None:
        return image
    if len(colour) == 1:
        # Pillow scales samples of fewer than 8 bits, and does not scale this one.
        image.info["transparency"] = colour[0] if depth >= 8 else colour[0] * 255 // ((1 << depth) - 1)
    elif depth == 8:
        image.info["transparency"] = colour
    else:
        # Pillow decodes 8 of the 16 bits: the upper ones, or the lower ones where they are taken for the upper.
        del image.info["transparency"]
        lower = PngImageFile(io.BytesIO(data))
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
        lower.load()
        lay_on_white(image, lower, colour)
    return image


def _heif(data: bytes) -> Any:
    return pi_heif.open_heif(data, convert_hdr_to_8bit=True)

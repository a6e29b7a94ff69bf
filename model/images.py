"""Image bytes to the uint8 RGB array that an encoder takes; the indexer and the server share it, so both see alike."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import ImageError, ImageTooLargeError

# Pillow's own check stands inside open(), before ours on the header, and is bound to another number of pixels.
Image.MAX_IMAGE_PIXELS = None
# Such as of damaged EXIF data: nothing that a server's log needs once for each upload. Set once, because
# warnings.catch_warnings changes the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
RESIZE = "cover-bicubic"
"""How an image becomes the encoder's size, as written in a bundle's manifest: scaled with a bicubic filter until it
covers the target, then its centre is cut out."""

DRAFT = 2
"""How many times the target a JPEG is at least decoded at, before it is scaled down. Against decoding all of it, pixels
differ by 0.3 of 255 on average and by 2 at most (by 1.0 and 9 if it were once the target), and 12 megapixels for a
target of 224 take 77 ms instead of 360 (four times: 139)."""


DEFAULT_PIXELS = 64_000_000
"""What commands and servers accept where nobody said otherwise."""


@dataclass(frozen=True)
class Limits:
    """What is refused before anything is decoded."""

    pixels: int
    """Of one image, by its header."""


class Header(NamedTuple):
    """What a file says of its image before any pixel of it is decoded."""

    format: str
    """One of FORMATS."""
    width: int
    height: int
    peak_bytes: int
    """The most that decoding it holds at once, beyond the encoded bytes."""


def sniff(head: bytes) -> str | None:
    """The format, one of FORMATS, that a file beginning with these bytes claims to be; None = none of them.

    Sixty-four bytes are enough; nothing is decoded, and the rest of the file may be anything.
    """
    for format, magics in _MAGICS.items():
        if head.startswith(magics):
            return format
    return "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


_MAGICS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
}


def read_header(data: bytes, limits: Limits) -> Header:
    """Read what a file says of its image, without decoding any pixel of it.

    Raises:
        ImageError: empty, not one of the formats, or damaged before its pixels.
        ImageTooLargeError: more pixels than the limit.
    """
    with _opened(data, limits) as image:
        width, height = image.size
        return Header(image.format or "", width, height, PEAK * width * height)


PEAK = 24
"""Bytes a pixel that the most expensive kind of image takes."""


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[Image.Image]:
    if not data:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limits.pixels:
                raise ImageTooLargeError(
                    f"the image has {width} x {height} pixels: at most {limits.pixels:,} in all are accepted"
                )
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"the file is not one of {', '.join(FORMATS)}") from error
    except Exception as error:
        # Decoders meet hostile bytes with errors of many kinds (struct, value, index, OS, syntax); all mean the same.
        raise ImageError("the image is damaged or cut short") from error


def decode(data: bytes, size: tuple[int, int], limits: Limits) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, WebP, GIF (first frame) or BMP to RGB, shape (height, width, 3) for size (height, width).

    EXIF orientation is applied, transparent pixels are laid on white, 16-bit samples are scaled to 8, and any other
    colour space is converted. JPEGs much larger than the target are decoded at a fraction of their size. Whatever
    embeds images and whatever answers must decode them here, or keys and queries would differ.

    Raises:
        ImageError: empty, not one of the five formats, damaged, or cut short.
        ImageTooLargeError: more pixels than the limit, by its header.
    """
    with _opened(data, limits) as image:
        if image.format == "JPEG":
            # libjpeg can decode at 1/2, 1/4 or 1/8 of the size.
            image.draft(None, (DRAFT * size[1], DRAFT * size[0]))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return fit(_to_rgb(image), size)


def fit(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an RGB image until it covers (height, width), cut out the centre; shape (height, width, 3) uint8."""
    height, width = size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.array(image, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        samples = np.asarray(image, dtype=np.float64) / 257.0
        image = Image.fromarray(np.clip(samples.round(), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")

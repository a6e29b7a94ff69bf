"""The formats that are read, how each is known by its first bytes, and what is said of a file before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from secondlook.model.errors import ImageError, ImageTooLargeError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"},
)
DEFAULT_PIXELS = 64_000_000
"""What commands and servers accept where nobody said otherwise."""


@dataclass(frozen=True)
class Limits:
    """What is refused before anything is decoded."""

    pixels: int
    """Of one image, by its header."""

    def check(self, width: int, height: int) -> None:
        """Refuse an image by its size.

        Raises:
            ImageTooLargeError: more pixels than the limit. ImageError: none at all.
        """
        if width <= 0 or height <= 0:
            raise ImageError(f"the image is damaged: it has {width} x {height} pixels")
        if width * height > self.pixels:
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels: at most {self.pixels:,} in all are accepted"
            )


class Header(NamedTuple):
    """What a file says of its image before any pixel of it is decoded."""

    format: str
    """One of FORMATS."""
    width: int
    """As stored: before it is turned as its EXIF orientation says."""
    height: int
    peak_bytes: int
    """The most that decoding it holds at once, beyond the encoded bytes."""


class Inspected(NamedTuple):
    """A file whose structure was read and found harmless."""

    width: int
    height: int
    bytes_per_pixel: float
    """That decoding holds at once."""
    data: bytes
    """What a decoder is given: the file, or a copy of it less what no decoder needs."""
    orientation: int = 1
    """As EXIF counts: 1 to 8."""
    scalable: float = 0
    """Of bytes_per_pixel: what is held of the pixels alone that are decoded, where that may be a fraction of them."""
    is_cut: bool = False
    """Whether its end is missing, so that the decoder has to find out how much more is."""


_MAGICS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def sniff(head: bytes) -> str | None:
    """The format, one of FORMATS, that a file beginning with these bytes claims to be; None = none of them.

    Sixty-four bytes are enough; nothing is decoded, and the rest of the file may be anything.
    """
    for format, magics in _MAGICS.items():
        if head.startswith(magics):
            return format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        # The major brand, then the compatible ones: of images of either kind, the major one may be the general "mif1".
        end = min(int.from_bytes(head[:4], "big"), 64)
        for brand in (head[8:12], *(head[at : at + 4] for at in range(16, end, 4))):
            if brand in _AVIF_BRANDS:
                return "AVIF"
            if brand in _HEIC_BRANDS:
                return "HEIC"
    return None

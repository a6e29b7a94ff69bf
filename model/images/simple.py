"""What a BMP, a GIF or a WebP says of itself."""

from __future__ import annotations

from typing import NamedTuple

from secondlook.model.errors import ImageError
from secondlook.model.images.formats import Inspected, Limits

BLOCKS = 100_000
"""Pieces of a GIF before its first image, or chunks of a WebP, that are walked over."""
RUN_LENGTH_PIXELS = 400_000
"""Of a run-length coded BMP: Pillow decodes it in Python, up to 2 microseconds each."""
_RUN_LENGTH = (1, 2)
_SAVE = "save it as PNG"


def inspect_bmp(data: bytes, limits: Limits) -> Inspected:
    """Read the header, and check that the pixels are there.

    Raises:
        ImageError: damaged, cut short, or of a kind that is not decoded. ImageTooLargeError: too many pixels.
    """
    start, header = _little(data, 10, 4), _little(data, 14, 4)
    if len(data) < 14 + header or header < 12:
        raise ImageError("the BMP is cut short before its pixels")
    if header == 12:
        width, height, bits, compression = _little(data, 18, 2), _little(data, 20, 2), _little(data, 24, 2), 0
    else:
        width, height = _signed(data, 18), abs(_signed(data, 22))
        bits, compression = _little(data, 28, 2), _little(data, 30, 4)
    limits.check(width, height)
    if compression in _RUN_LENGTH:
        if width * height > RUN_LENGTH_PIXELS:
            raise ImageError(
                f"the BMP is run-length coded and has {width} x {height} pixels: at most {RUN_LENGTH_PIXELS:,} in all "
                f"are decoded of that kind: {_SAVE}"
            )
    elif compression not in (0, 3):
        raise ImageError(f"the BMP is compressed in a way that is not decoded ({compression}): {_SAVE}")
    elif start + ((width * bits + 31) // 32 * 4) * (height - 1) + (width * bits + 7) // 8 > len(data):
        raise ImageError("the BMP is cut short: not all of its pixels are there")
    return Inspected(width, height, 4 if bits > 8 else 1 if compression not in _RUN_LENGTH else 4, data)


class Frame(NamedTuple):
    """Where the first image of a GIF lies on its canvas."""

    canvas: tuple[int, int]
    offset: tuple[int, int]


def inspect_gif(data: bytes, limits: Limits) -> tuple[Inspected, Frame]:
    """Walk to the first image; give it alone, as if it were the whole canvas, and where it lies there.

    Raises:
        ImageError: damaged or cut short before its first image, or in too many pieces. ImageTooLargeError: too large.
    """
    canvas = (_little(data, 6, 2), _little(data, 8, 2))
    at = colours = 13 + _palette_bytes(data[10:11])
    control = b""
    for _ in range(BLOCKS):
        kind = data[at : at + 1]
        if kind == b"!":
            label, at = data[at + 1 : at + 2], at + 2
            if label == b"\xf9" and data[at : at + 1] == b"\4":
                control = b"!" + data[at - 1 : at + 6]
            at = _after_blocks(data, at)
        elif kind == b",":
            break
        elif kind in (b"", b";"):
            raise ImageError("the GIF has no image" if kind else "the GIF is cut short before its first image")
        else:
            at += 1
    else:
        raise ImageError(f"the GIF has more than {BLOCKS:,} blocks before its first image")
    if at + 10 > len(data):
        raise ImageError("the GIF is cut short before its first image")
    x, y, width, height = (_little(data, at + 1 + 2 * i, 2) for i in range(4))
    canvas = (max(canvas[0], x + width), max(canvas[1], y + height))
    limits.check(*canvas)
    limits.check(width, height)
    alone = (
        data[:6],
        *(width.to_bytes(2, "little"), height.to_bytes(2, "little")),
        data[10:colours],
        control,
        b",\0\0\0\0",
        data[at + 5 :],
    )
    return Inspected(*canvas, width * height / (canvas[0] * canvas[1]), b"".join(alone)), Frame(canvas, (x, y))


def _palette_bytes(packed: bytes) -> int:
    return 3 << ((packed[0] & 7) + 1) if packed and packed[0] & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    for _ in range(BLOCKS):
        length = _little(data, at, 1)
        at += 1 + length
        if not length:
            return at
    raise ImageError(f"the GIF has more than {BLOCKS:,} blocks before its first image")


def inspect_webp(data: bytes, limits: Limits) -> Inspected:
    """Read the size of the canvas.

    Raises:
        ImageError: damaged before its pixels. ImageTooLargeError: too many pixels.
    """
    kind = data[12:16]
    width = height = 0
    if kind == b"VP8X" and len(data) >= 30:
        width, height = _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    elif kind == b"VP8L" and data[20:21] == b"\x2f":
        bits = _little(data, 21, 4)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if not width or not height:
        raise ImageError("the WebP is damaged: it does not say its size")
    limits.check(width, height)
    return Inspected(width, height, 17, data)


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _signed(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little", signed=True)

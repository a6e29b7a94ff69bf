"""What a PNG says of itself, and its chunks without what no decoder needs."""

from __future__ import annotations

from zlib import crc32

from secondlook.model.errors import ImageError
from secondlook.model.images.exif import orientation
from secondlook.model.images.formats import Inspected, Limits

CHUNKS = 100_000
"""Few have more than thousands."""
_END = b"\0\0\0\0IEND\xaeB`\x82"
_BYTES = {0: 1, 2: 4, 3: 1, 4: 4, 6: 4}
"""That Pillow keeps a pixel of each colour type in."""


def inspect(data: bytes, limits: Limits) -> Inspected:
    """Walk the chunks to the end of the pixels; keep size, palette, transparency and pixels.

    Nothing is inflated. Texts, profiles and animation frames are left out, whatever is wrong with them.

    Raises:
        ImageError: damaged before its pixels, or in too many pieces. ImageTooLargeError: more pixels than the limit.
    """
    if data[12:16] != b"IHDR" or len(data) < 33 or _number(data, 8) != 13:
        raise ImageError("the PNG is damaged: it does not say its size")
    width, height = _number(data, 16), _number(data, 20)
    limits.check(width, height)
    kept = [data[:33]]
    turned, at, is_in_pixels = None, 33, False
    for _ in range(CHUNKS):
        kind, stop = data[at + 4 : at + 8], at + 12 + _number(data, at)
        if kind == b"IDAT":
            is_in_pixels = True
            kept.append(data[at:stop])
        elif is_in_pixels or kind == b"IEND":
            break
        elif kind == b"PLTE" or (kind == b"tRNS" and _is_whole(data, at, stop)):
            kept.append(data[at:stop])
        elif kind == b"eXIf" and turned is None and _is_whole(data, at, stop):
            turned = orientation(data[at + 8 : stop - 4])
        if stop > len(data):
            break
        at = stop
    else:
        raise ImageError(f"the PNG has more than {CHUNKS:,} chunks")
    if not is_in_pixels:
        raise ImageError("the PNG is cut short before its pixels")
    if stop > len(data) and kind == b"IDAT":
        # Its last bytes are missing: of pixels, or of what follows them. The decoder sees which.
        kept[-1] = (len(kept[-1]) - 8).to_bytes(4, "big") + kept[-1][4:] + bytes(4)
    kept.append(_END)
    stream = data if sum(map(len, kept)) == len(data) else b"".join(kept)
    depth, colour = data[24], data[25]
    held = 2 if depth == 16 and colour == 0 else _BYTES.get(colour, 4)
    if depth == 16 and colour == 2 and transparent(stream) is not None:
        held *= 2
    return Inspected(width, height, held, stream, turned or 1)


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _is_whole(data: bytes, start: int, stop: int) -> bool:
    return crc32(data[start + 4 : stop - 4]) == int.from_bytes(data[stop - 4 : stop], "big")


def transparent(data: bytes) -> tuple[int, ...] | None:
    """The one colour of inspected bytes that is transparent, as its samples are stored; None without one."""
    colour, at = data[25], 33
    while (kind := data[at + 4 : at + 8]) != b"IDAT":
        length = _number(data, at)
        if kind == b"tRNS" and colour in (0, 2) and length >= 2 + colour * 2:
            most = (1 << data[24]) - 1
            return tuple(
                int.from_bytes(data[at + 8 + 2 * i : at + 10 + 2 * i], "big") & most for i in range(1 + colour)
            )
        at += 12 + length
    return None

"""What a PNG says of itself, and its chunks without what no decoder needs."""

from __future__ import annotations

from zlib import crc32

from model.errors import ImageError
from model.images.exif import orientation
from model.images.formats import Inspected, Limits

_CHUNKS = 100_000
"""Few have more than thousands."""
_END = b"\0\0\0\0IEND\xaeB`\x82"
_BYTES = {0: 1, 2: 4, 3: 1, 4: 4, 6: 4}
"""That Pillow keeps a pixel of each colour type in."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def inspect(data: bytes, limits: Limits) -> Inspected:
    """Walk the chunks; keep size, palette, transparency and pixels.

    Nothing is inflated. Texts, profiles and animation frames are left out, whatever is wrong with them.

    Raises:
        ImageError: damaged before its pixels, or in too many pieces.
        ImageTooLargeError: more pixels than the limit.
    """
    if data[12:16] != b"IHDR" or len(data) < 33 or int.from_bytes(data[8:12], "big") != 13:
        raise ImageError("the PNG is damaged: it does not say its size")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    limits.check(width, height)
    kept = [data[:33]]
    turned, at, is_done, length = 1, 33, False, 0
    for _ in range(_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        stop = at + 12 + length
        if kind == b"IDAT":
            if not is_done:
                kept.append(data[at:stop])
        elif len(kept) > 1 and kept[-1][4:8] == b"IDAT":
            is_done = True
        if kind == b"IEND" or stop > len(data):
            break
        if kind == b"PLTE" or (kind == b"tRNS" and length <= 256 and _is_whole(data, at, stop)):
            if not is_done:
                kept.append(data[at:stop])
        elif kind == b"eXIf" and turned == 1 and _is_whole(data, at, stop):
            turned = orientation(data[at + 8 : stop - 4])
        at = stop
    else:
        raise ImageError(f"the PNG has more than {_CHUNKS:,} chunks")
    if not any(chunk[4:8] == b"IDAT" for chunk in kept[-1:]):
        raise ImageError("the PNG is cut short before its pixels" if stop > len(data) else "the PNG has no pixels")
    if len(kept[-1]) < 12 + length and stop > len(data):
        # The last bytes of pixels are missing, or only those after them: the decoder sees.
        body = kept[-1][8 : 8 + length]
        kept[-1] = len(body).to_bytes(4, "big") + b"IDAT" + body + b"\0\0\0\0"
    kept.append(_END)
    stream = data if sum(map(len, kept)) == len(data) else b"".join(kept)
    return Inspected(width, height, _BYTES.get(data[25], 4) if data[24] < 16 else _of_16_bits(data[25]), stream, turned)


def _of_16_bits(colour: int) -> int:
    return 2 if colour == 0 else 4


def _is_whole(data: bytes, start: int, stop: int) -> bool:
    return crc32(data[start + 4 : stop - 4]) == int.from_bytes(data[stop - 4 : stop], "big")


def transparent(data: bytes) -> int | tuple[int, ...] | None:
    """The one colour of inspected bytes that is transparent, in the samples that Pillow decodes; None without one."""
    depth, colour = data[24], data[25]
    at = 33
    while (kind := data[at + 4 : at + 8]) not in (b"IDAT", b"IEND"):
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"tRNS" and colour in (0, 2) and length >= 2 * _CHANNELS[colour]:
            samples = [int.from_bytes(data[at + 8 + 2 * i : at + 10 + 2 * i], "big") for i in range(_CHANNELS[colour])]
            break
        at += 12 + length
    else:
        return None
    if colour == 2:
        return tuple(sample >> (depth - 8) & 255 for sample in samples)
    return samples[0] if depth == 16 else (samples[0] & ((1 << depth) - 1)) * 255 // ((1 << depth) - 1)

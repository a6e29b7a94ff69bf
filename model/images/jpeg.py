"""What a JPEG says of itself, and its bytes without what no decoder needs."""

from __future__ import annotations

import re

from secondlook.model.errors import ImageError
from secondlook.model.images.exif import orientation
from secondlook.model.images.formats import Inspected, Limits

END = b"\xff\xd9"
FILL = bytes(range(1, 255)) * 4
"""Pixels of no image: where they change what is decoded, the image's own are missing."""
SCAN = b"\xff\xda"
_NEXT = re.compile(rb"\xff+([\x01-\xfe])")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_NEEDED = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xDA}
"""Frame, tables and scan."""
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""
SEGMENTS = 1_000
"""Before the first scan. A profile or a text of 16 MiB has 256."""
SCANS = 64
"""Of an image of any size, that are decoded. Libraries write 3 to 20; each goes over all blocks of the image."""
SCANNED_PIXELS = 1_600_000_000
"""Scans times pixels that are decoded: 25 scans of 64 megapixels."""
LEAST_SCANS = 16
"""That are decoded of an image as large as the limit allows."""
COEFFICIENTS = 2
"""Bytes of each sample of an image that comes in several scans."""


def inspect(data: bytes, limits: Limits) -> Inspected:
    """Walk the segments up to the first scan, and count the scans.

    Raises:
        ImageError: damaged before its first scan, of a kind that is not decoded, or with far too many scans.
        ImageTooLargeError: more pixels than the limit.
    """
    kept = [data[:2]]
    frame, turned, at = None, None, 2
    for _ in range(SEGMENTS):
        # Whatever stands before a marker is skipped, as browsers skip it.
        next_one = _NEXT.search(data, at)
        if next_one is None:
            raise ImageError("the JPEG is cut short before its pixels")
        marker, at = next_one[1][0], next_one.end()
        if marker in _ALONE:
            continue
        if marker == END[1]:
            raise ImageError("the JPEG is damaged: it ends without an image")
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at : at + length]
        if length < 2 or len(segment) < length:
            raise ImageError("the JPEG is cut short before its pixels")
        if marker in _FRAMES and frame is None:
            frame = (marker, segment)
        if marker == 0xE1 and segment[2:8] == b"Exif\0\0" and turned is None:
            turned = orientation(segment[2:])
        if marker in _NEEDED or _says_colours(marker, segment):
            kept += (b"\xff", next_one[1], segment)
        at += length
        if marker == SCAN[1]:
            break
    else:
        raise ImageError(f"the JPEG has more than {SEGMENTS:,} segments before its pixels")
    if frame is None:
        raise ImageError("the JPEG is damaged: it does not say its size")
    size = sum(map(len, kept))
    is_cut = data.rfind(END, at) < 0
    stream = data if size == at and not is_cut else b"".join((*kept, data[at:], END if is_cut else b""))
    # Where the first scan of a sequential JPEG has all colours, libjpeg takes no other; counting takes as long as a
    # fifth of decoding a photo.
    is_alone = frame[0] not in _PROGRESSIVE and segment[2:3] == frame[1][7:8]
    scans = 1 if is_alone else 1 + data.count(SCAN, at)
    found = _of(frame[0], frame[1], scans, stream, limits)._replace(orientation=turned or 1)
    if is_cut and scans == 1:
        # Decoded a second time, to see what is missing.
        return found._replace(is_cut=True, bytes_per_pixel=2 * found.bytes_per_pixel, scalable=2 * found.scalable)
    if is_cut and frame[0] not in _PROGRESSIVE:
        raise ImageError("the JPEG is cut short: not all of its colours are there")
    return found  # a progressive one shows all of the image from its first scan on


def _says_colours(marker: int, segment: bytes) -> bool:
    return (marker == 0xE0 and segment[2:7] == b"JFIF\0") or (marker == 0xEE and segment[2:7] == b"Adobe")


def _of(marker: int, frame: bytes, scans: int, stream: bytes, limits: Limits) -> Inspected:
    if len(frame) < 8 or len(frame) < 8 + 3 * frame[7]:
        raise ImageError("the JPEG is damaged: it does not say its size")
    height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
    limits.check(width, height)
    if frame[2] != 8:
        raise ImageError(f"the JPEG has samples of {frame[2]} bits: only 8 are decoded")
    if scans > SCANS:
        raise ImageError(f"the JPEG has {scans:,} scans: at most {SCANS} are decoded")
    check_scans(scans, width * height)
    sampling = [(part >> 4) * (part & 15) for part in frame[9 : 8 + 3 * frame[7] : 3]]
    most = max(frame[9 : 8 + 3 * frame[7] : 3], key=lambda part: (part >> 4) * (part & 15), default=0x11)
    planes = sum(sampling) / max(1, (most >> 4) * (most & 15))
    # Several scans are kept as coefficients; the decoded image has 4 a pixel, or 1 where it is grey.
    coefficients = COEFFICIENTS * planes if marker in _PROGRESSIVE or scans > 1 else 0
    decoded = 1 if frame[7] == 1 else 4
    return Inspected(width, height, decoded + coefficients, stream, scalable=decoded)


def check_scans(scans: int, pixels: int) -> None:
    """Refuse so many scans of so many pixels.

    Raises:
        ImageError: it would take many seconds to decode them.
    """
    if scans > LEAST_SCANS and scans * pixels > SCANNED_PIXELS:
        raise ImageError(f"the JPEG has {scans:,} scans of {pixels:,} pixels each: that is too much to decode")

"""What a TIFF says of its first image, and its bytes with the tags alone that a decoder needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import ImageError
from secondlook.model.images.formats import Inspected, Limits
from secondlook.model.images.jpeg import COEFFICIENTS, SCAN, check_scans

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of each type of value."""
_NEEDED = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(338, 339, 347, 529, 530, 531, 532),
}
"""Size, samples, compression, colours, strips and tiles."""
_COMPRESSIONS = {1, 4, 5, 7, 8, 32773, 32946, 34925, 50000}
"""None, CCITT group 4, LZW, JPEG, deflate, PackBits, deflate, LZMA, Zstandard. Of the other kinds of CCITT libtiff
writes a line into the log for each row that is damaged."""
_JPEG = 7
ENTRIES = 1_000
PIECES = 65_536
"""Strips or tiles."""


class Tags:
    """The tags of a TIFF's first image."""

    def __init__(self, data: bytes) -> None:
        """Read them.

        Raises:
            ImageError: damaged, cut short, or a BigTIFF.
        """
        self._data = data
        self.order = "<" if data[:2] == b"II" else ">"
        if data[2:4] in (b"+\0", b"\0+"):
            raise ImageError("the file is a BigTIFF: save it as a plain TIFF or as PNG")
        first = self._number(4, 4)
        count = self._number(first, 2)
        if not 0 < count <= ENTRIES or first + 2 + 12 * count > len(data):
            raise ImageError("the TIFF is damaged or cut short before its pixels")
        self._entries: dict[int, bytes] = {}
        for at in range(first + 2, first + 2 + 12 * count, 12):
            self._entries.setdefault(self._number(at, 2), data[at : at + 12])

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._data[at : at + size], "little" if self.order == "<" else "big")

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def values(self, tag: int, default: int | None = None) -> NDArray[np.int64]:
        """The whole numbers of one tag.

        Raises:
            ImageError: it is not there, has no whole numbers, or too many for what is there.
        """
        entry = self._entries.get(tag)
        if entry is None and default is not None:
            return np.array([default], np.int64)
        order = "little" if self.order == "<" else "big"
        if entry is not None:
            kind, count = int.from_bytes(entry[2:4], order), int.from_bytes(entry[4:8], order)  # type: ignore[arg-type]
            size = _SIZES.get(kind, 0) * count
            body = entry[8 : 8 + size] if size <= 4 else b""
            if size > 4:
                start = int.from_bytes(entry[8:12], order)  # type: ignore[arg-type]
                body = self._data[start : start + size]
            if kind in (1, 3, 4) and 0 < size == len(body):
                return np.frombuffer(body, f"{self.order}u{_SIZES[kind]}").astype(np.int64)
        raise ImageError(f"the TIFF is damaged: its tag {tag} cannot be read")

    def first(self, tag: int, default: int | None = None) -> int:
        """The first number of one tag."""
        return int(self.values(tag, default)[0])

    def alone(self) -> bytes:
        """The file with a directory of the needed tags behind it, and no other."""
        order = "little" if self.order == "<" else "big"
        kept = [self._entries[tag] for tag in sorted(self._entries) if tag in _NEEDED]
        data = self._data + b"\0" * (len(self._data) % 2)
        return b"".join(
            (
                data[:4],
                len(data).to_bytes(4, order),  # type: ignore[arg-type]
                data[8:],
                len(kept).to_bytes(2, order),  # type: ignore[arg-type]
                *kept,
                b"\0\0\0\0",
            )
        )


def inspect(data: bytes, limits: Limits) -> Inspected:
    """Read the tags of the first image, and check that its pieces are such as fit it.

    Raises:
        ImageError: damaged, cut short, or of a kind that is not decoded. ImageTooLargeError: too many pixels.
    """
    tags = Tags(data)
    width, height = tags.first(256), tags.first(257)
    limits.check(width, height)
    compression = tags.first(259, 1)
    if compression not in _COMPRESSIONS:
        raise ImageError(f"the TIFF is compressed in a way that is not decoded ({compression}): save it as PNG")
    samples, bits = tags.first(277, 1), int(tags.values(258, 1).max())
    if not 1 <= samples <= 8 or not 1 <= bits <= 64:
        raise ImageError(f"the TIFF has {samples} samples of {bits} bits: that is not decoded: save it as PNG")
    raw = samples * bits / 8
    planes = samples if tags.first(284, 1) == 2 else 1
    if 322 in tags:
        across, down = tags.first(322), tags.first(323)
        sizes, offsets = 325, 324
    else:
        across, down = width, min(height, max(1, tags.first(278, height)))
        sizes, offsets = 279, 273
    if across <= 0 or down <= 0:
        raise ImageError("the TIFF is damaged: its tiles have no size")
    pieces = -(-width // across) * -(-height // down) * planes
    if pieces > PIECES:
        raise ImageError(f"the TIFF is cut into {pieces:,} pieces: at most {PIECES:,} are decoded")
    if pieces * across * down > 4 * width * height * planes + (1 << 22):
        raise ImageError(f"the TIFF is damaged: tiles of {across} x {down} do not fit {width} x {height} pixels")
    starts, lengths = tags.values(offsets), tags.values(sizes, len(data) if pieces == 1 or compression == 1 else None)
    if len(starts) < pieces or (len(lengths) < pieces and sizes in tags):
        raise ImageError("the TIFF is damaged: not all of its strips or tiles are there")
    if compression != 1 and (lengths.sum() > 2 * len(data) or len(lengths) > 2 * PIECES):
        raise ImageError("the TIFF is damaged: its strips or tiles are larger than the file")
    ends = starts[:pieces] + (lengths[:pieces] if sizes in tags else 0)
    if (ends > len(data)).any() or (compression == 1 and int(raw * width * height) > len(data)):
        raise ImageError("the TIFF is cut short: not all of its pixels are there")
    # What Pillow makes of a pixel, and libtiff's buffer of one piece, with 4 bytes a pixel where it converts colours.
    decoded = 4 if samples > 1 else max(1, min(4, bits // 8))
    of_piece = max(4.0, raw)
    if compression == _JPEG:
        check_scans(data.count(SCAN), across * down)
        of_piece += COEFFICIENTS * samples
    held = of_piece * min(1.0, across * down / (width * height))
    turned = tags.first(274, 1) if 274 in tags else 1
    return Inspected(width, height, decoded + held, tags.alone(), turned if 1 <= turned <= 8 else 1)


def is_white_zero(data: bytes) -> bool:
    """Whether 0 is white, of inspected bytes with one sample a pixel."""
    return Tags(data).first(262, 1) == 0

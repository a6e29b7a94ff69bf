"""The one tag of EXIF data that changes what an image shows."""

from __future__ import annotations

_ORIENTATION = 0x0112
_SHORT = 3
"""The type of a number of two bytes."""


def orientation(exif: bytes) -> int:
    """How the camera was held, 1 (upright) to 8, by EXIF data with or without its prefix; 1 where it is unclear.

    Other tags are not looked at: whatever is wrong with them, the image is turned as browsers turn it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order: dict[bytes, str] = {b"II*\0": "little", b"MM\0*": "big"}
    byteorder = order.get(tiff[:4])
    if byteorder not in ("little", "big"):
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if byteorder == "little" else "big")

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff) - 11), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2) if number(entry + 2, 2) == _SHORT else 1
            return value if 1 <= value <= 8 else 1
    return 1

"""Small files that cost much to decode, made here."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 8000
"""64 million pixels, as many as are accepted."""


def run_length_bmp(side: int = SIDE) -> bytes:
    """A BMP of 1,082 bytes that is run-length coded and ends at once: all its pixels are left out."""
    palette = bytes(4 * 256)
    data = b"\x00\x01\x00\x01"
    offset = 14 + 40 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 2835, 2835, 256, 0)
    return head + info + palette + data


def many_scans(scans: int = 30_000, side: int = 1000) -> bytes:
    """A progressive JPEG whose last scan is there so many times; each goes over all of the image."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 40, 30)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    start, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[start:end] * scans + whole[end:]


def compressed_profiles(size: int = 15_700_000) -> bytes:
    """A PNG of so many bytes, of chunks that each inflate to a thousand times as much."""
    whole = png(np.full((32, 32, 3), 200, np.uint8))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20), 9))
    return whole[:33] + profile * (size // len(profile)) + whole[33:]


def grey_16_bits(side: int = SIDE) -> bytes:
    """A 16-bit PNG of one grey."""
    return png(np.full((side, side), 30_000, np.uint16))


def png(pixels: np.ndarray) -> bytes:
    """Encoded by hand: Pillow would take its time."""
    height, width = pixels.shape[:2]
    depth, colour = 8 * pixels.itemsize, 2 if pixels.ndim == 3 else 0
    row = b"\0" + pixels[0].astype(pixels.dtype.newbyteorder(">")).tobytes()
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

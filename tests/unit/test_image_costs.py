"""What decoding an image may cost: refused by its header, bounded by the limit on pixels, done in bands."""

import struct

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from secondlook.model.errors import ImageError, ImageTooLargeError
from secondlook.model.images import SMALL, Geometry, Limits, decode, fitting, read_header
from tests.odd_images import (
    HEIC,
    SIZE,
    bmp,
    chunk,
    encoded,
    exif,
    halves,
    jpeg_with,
    photo,
    png_with,
    tiff_of,
)

TARGET = SIZE[::-1]
LIMITS = Limits(64_000_000)
PLAIN = encoded(halves(), "PNG")


def seen(data: bytes, size: tuple[int, int] = TARGET) -> np.ndarray:
    return decode(data, Geometry.covering(*size), LIMITS).astype(int)


def repeated_scans(count: int) -> bytes:
    data = encoded(photo(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def scans_of_a_large_image() -> bytes:
    data = repeated_scans(30)
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", 8000, 8000) + data[at + 4 :]


def run_lengths() -> bytes:
    return bmp(b"\0\1", (64_000_000, 1), 8, 1) + bytes(1024)


def tiff_with(data: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    (start,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, start)
    places = range(start + 2, start + 2 + 12 * tags, 12)
    at = next(at for at in places if data[at : at + 2] == tag.to_bytes(2, "little"))
    return data[:at] + struct.pack("<HHII", tag, kind, count, value) + data[at + 12 :]


STRIPS = encoded(photo((64, 640)), "TIFF", compression="tiff_lzw", tiffinfo={278: 1})
GIF = encoded(halves(), "GIF")
GIF_START = 13 + (3 << ((GIF[10] & 7) + 1))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (repeated_scans(30_000), "30,0.* scans: at most 64"),
        (scans_of_a_large_image(), "too much to decode"),
        (run_lengths(), "run-length coded"),
        (tiff_of(7, repeated_scans(500), 8000), "too much to decode"),
        (tiff_of(3, bytes(100), 64), "compressed in a way that is not decoded"),
        (png_with(PLAIN, chunk(b"abCd", b"") * 200_000), "more than 100,000 chunks"),
        (PLAIN[:-12] + chunk(b"IDAT", b"") * 200_000 + PLAIN[-12:], "more than 100,000 chunks"),
        (jpeg_with(encoded(halves(), "JPEG"), *((0xFE, b"") for _ in range(2000))), "more than 1,000 segments"),
        (GIF[:GIF_START] + b"!\xfe\0" * 200_000 + GIF[GIF_START:], "more than 100,000 blocks"),
        (GIF[:GIF_START] + b"!\xfe" + b"\1a" * 200_000 + b"\0" + GIF[GIF_START:], "more than 100,000 blocks"),
        (tiff_with(STRIPS, 257, 4, 1, 900_000), "at most 65,536"),
        (tiff_with(STRIPS, 279, 4, 640, 8), "larger than the file"),
        (tiff_with(STRIPS, 277, 3, 1, 60_000), "samples"),
        (tiff_with(STRIPS, 273, 4, 0xFFFFFF, 8), "tag 273"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_few_bytes_that_would_cost_much_are_refused_by_the_header(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        read_header(data, LIMITS)
    with pytest.raises(ImageError, match=why):
        seen(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_limit_holds_for_every_format(format: str) -> None:
    data = encoded(halves(), format)
    assert read_header(data, Limits(64 * 48))[:3] == (format, *SIZE)
    fewer = Limits(64 * 48 - 1)
    for read in (lambda: read_header(data, fewer), lambda: decode(data, SMALL, fewer)):
        with pytest.raises(ImageTooLargeError, match="64 x 48 pixels"):
            read()
    with pytest.raises(ImageTooLargeError):
        read_header(HEIC, Limits(64 * 48 - 1))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(60, 50), (200, 130), (130, 200)])
def test_a_large_image_is_converted_in_bands_without_a_seam(
    mode: str, orientation: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo(shape))[..., 0].astype(np.uint16) * 257)
    else:
        image = photo(shape).quantize(200, dither=Image.Dither.NONE) if mode == "P" else photo(shape).convert(mode)
    format = "JPEG" if mode == "CMYK" else "PNG"
    turned = encoded(image, format, exif=b"Exif\0\0" + exif(orientation), quality=95)
    at_once = seen(turned)
    monkeypatch.setattr(fitting, "WHOLE", 0)
    monkeypatch.setattr(fitting, "BAND", 1000)
    # Pillow may scale down before it scales across, which rounds differently; a seam would be seen in tens.
    assert np.abs(seen(turned) - at_once).max() <= (6 if mode == "P" else 2)


def test_avif_is_decoded_by_one_thread_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    of_pillow = AvifImagePlugin._avif.AvifDecoder

    def decoder(data: bytes, codec: str, max_threads: int) -> object:
        threads.append(max_threads)
        return of_pillow(data, codec, max_threads)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(AvifImagePlugin._avif, "AvifDecoder", decoder)
    seen(encoded(Image.new("RGB", (64, 64)), "AVIF"))
    assert set(threads) == {1}

"""What a browser shows of a file is what the encoder sees of it."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.model.images import Geometry, Limits, decode, sniff
from tests.odd_images import SIZE, bmp, chunk, encoded, exif, gif, halves, jpeg_with, photo, png, png_with

DRAWN = """async (url) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.width, canvas.height, btoa(Array.from(pixels, (one) => String.fromCharCode(one)).join(""))];
}"""
RANDOM = np.random.default_rng(0)
PNG, JPEG = encoded(photo(SIZE), "PNG"), encoded(photo(), "JPEG", quality=90)
SMALL, WAVES = photo((32, 40)).quantize(8), np.asarray(photo())


def noise(*channels: int, most: int = 256) -> np.ndarray:
    return RANDOM.integers(0, most, (48, 64, *channels))


def bgra(alpha: int, of_left: int | None = None) -> bytes:
    pixels = np.asarray(photo(SIZE))[::-1, :, ::-1]
    alphas = np.full(pixels.shape[:2], alpha, np.uint8)
    alphas[:, :32] = alpha if of_left is None else of_left
    return np.dstack([pixels, alphas]).tobytes()


MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
CLEAR_16 = np.where(noise(1, most=2) == 0, [0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD])
FILES = {
    "png": PNG,
    "png with a large text": png_with(PNG, chunk(b"tEXt", b"Comment\0" + b"a" * (2 << 20))),
    "png with a wrong crc": png_with(PNG, chunk(b"pHYs", bytes(9), crc=1)),
    "png with transparency of a wrong crc": png_with(PNG, chunk(b"tRNS", bytes(6), crc=3)),
    "png without its end": PNG[:-12],
    **{f"png turned {o}": png_with(PNG, chunk(b"eXIf", exif(o))) for o in range(2, 9)},
    **{
        f"png grey {depth}": png(noise(most=1 << depth), 0, depth, chunk(b"tRNS", struct.pack(">H", 1)))
        for depth in (1, 2, 4, 8, 16)
    },
    "png grey and alpha": png(noise(2), 4, 8),
    "png grey and alpha of 16 bits": png(noise(2, most=65536), 4, 16),
    "png rgb of 16 bits": png(noise(3, most=65536), 2, 16),
    "png rgb of 16 bits, one transparent": png(CLEAR_16, 2, 16, chunk(b"tRNS", bytes.fromhex("123456789abc"))),
    "png rgba": png(noise(4), 6, 8),
    "png rgba of 16 bits": png(noise(4, most=65536), 6, 16),
    "png palette": png(
        noise(most=4),
        3,
        2,
        chunk(b"PLTE", bytes([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])),
        chunk(b"tRNS", b"\0\x80"),
    ),
    **{
        f"bmp of 32 bits, header {header}, compression {compression}, alpha {alpha} and {left}": bmp(
            bgra(alpha, left), SIZE, 32, compression, header, MASKS[: 3 if header == 40 else 4] if compression else ()
        )
        for header in (40, 108, 124)
        for compression in (0, 3)
        for alpha, left in ((255, 255), (128, 128), (255, 0))
    },
    "bmp of 32 bits without alpha": bmp(bgra(0), SIZE, 32),
    "bmp of 16 bits": bmp(noise(2).astype(np.uint8).tobytes(), SIZE, 16),
    "bmp from above": bmp(np.asarray(photo(SIZE))[:, :, ::-1].tobytes(), (64, -48), 24),
    "bmp palette": encoded(SMALL, "BMP"),
    "jpeg": JPEG,
    "jpeg progressive": encoded(photo(), "JPEG", quality=90, progressive=True),
    "jpeg progressive, cut": encoded(photo(), "JPEG", quality=90, progressive=True)[:-300],
    "jpeg cmyk": encoded(photo().convert("CMYK"), "JPEG", quality=90),
    "jpeg cmyk progressive": encoded(photo().convert("CMYK"), "JPEG", quality=90, progressive=True),
    "jpeg grey": encoded(photo().convert("L"), "JPEG", quality=90),
    "jpeg with more behind it": JPEG + b"more" * 1000,
    **{f"jpeg turned {o}": jpeg_with(JPEG, (0xE1, b"Exif\0\0" + exif(o))) for o in range(2, 9)},
    "jpeg turned beside an odd tag": jpeg_with(
        JPEG, (0xE1, b"Exif\0\0" + exif(6, "<", 3, struct.pack("<HHII", 0x0128, 2, 3, 0x323232)))
    ),
    "jpeg upright, then turned": jpeg_with(JPEG, (0xE1, b"Exif\0\0" + exif(1)), (0xE1, b"Exif\0\0" + exif(6))),
    "jpeg turned by a number of another type": jpeg_with(JPEG, (0xE1, b"Exif\0\0" + exif(6, "<", 4))),
    "webp": encoded(photo(), "WEBP", quality=90),
    "webp lossless with alpha": encoded(Image.fromarray(noise(4).astype(np.uint8)), "WEBP", lossless=True, exact=True),
    "webp animated": encoded(photo(), "WEBP", save_all=True, append_images=[halves((300, 200))]),
    "avif": encoded(photo(), "AVIF", quality=95),
    "avif with alpha": encoded(
        Image.fromarray(np.dstack([WAVES, np.where(WAVES[..., 1] > 127, 255, 0).astype(np.uint8)])), "AVIF", quality=95
    ),
    **{f"avif turned {o}": encoded(photo(), "AVIF", quality=95, exif=b"Exif\0\0" + exif(o)) for o in range(2, 9)},
    "gif": encoded(photo().quantize(60), "GIF"),
    "gif interlaced": encoded(photo().quantize(60), "GIF", interlace=1),
    "gif smaller than its canvas": gif(SIZE, (16, 0), SMALL),
    "gif smaller than its canvas, transparent": gif(SIZE, (16, 0), SMALL, clear=2),
    "gif larger than its canvas": gif((32, 24), (8, 8), SMALL),
}


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", FILES)
def test_the_encoder_sees_what_a_browser_shows(page: Any, name: str) -> None:
    data = FILES[name]
    url = f"data:image/{(sniff(data[:64]) or '').lower()};base64,{base64.b64encode(data).decode()}"
    width, height, drawn = page.evaluate(DRAWN, url)
    shown = np.frombuffer(base64.b64decode(drawn), np.uint8).reshape(height, width, 4)[..., :3].astype(int)
    seen = decode(data, Geometry.covering(height, width), Limits(1_000_000)).astype(int)
    # Decoders round alpha and chroma differently, by one.
    assert np.abs(seen - shown).max() <= 2
    assert np.abs(seen - shown).mean() < 0.6

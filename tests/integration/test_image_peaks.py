"""What decoding holds at once, measured in a process of its own, against what the header is charged."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.model.images import Geometry, Limits, read_header
from tests.odd_images import HEIC_LARGE, chunk, encoded, exif, gif, png, tiff_of

# Forks for each file, so that no memory that was freed before is used again.
MEASURED = """
import os, sys
from secondlook.model.images import Geometry, Limits, decode

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))

for line in sys.stdin:
    path, size = line.split()
    child = os.fork()
    if not child:
        with open(path, "rb") as file:
            data = file.read()
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = kilobytes("VmRSS")
        decode(data, Geometry.covering(int(size), int(size)), Limits(10**9))
        print(1024 * (kilobytes("VmHWM") - before), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
SIDE = 1600
LIMITS = Limits(64_000_000)


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes, int], int]]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which tells the peak of a process")
    folder = tmp_path_factory.mktemp("peaks")
    with subprocess.Popen(
        [sys.executable, "-c", MEASURED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def bytes_at_most(data: bytes, size: int) -> int:
            (folder / "image").write_bytes(data)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{folder / 'image'} {size}\n")
            process.stdin.flush()
            return int(json.loads(process.stdout.readline()))

        yield bytes_at_most
        assert process.stdin is not None
        process.stdin.close()


def flat(mode: str, side: int = SIDE) -> Image.Image:
    if mode == "LAB":
        return Image.new(mode, (side, side), (90, 20, 40))
    return Image.new("RGBA", (side, side), (9, 88, 200, 120)).convert(mode)


def samples(channels: int, depth: int) -> np.ndarray:
    shape = (SIDE, SIDE, channels) if channels > 1 else (SIDE, SIDE)
    return np.full(shape, 1 if depth == 1 else 60)


EXIF = b"Exif\0\0" + exif(6)
PALETTE, CLEAR = chunk(b"PLTE", bytes(range(192))), chunk(b"tRNS", bytes(64))
FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(flat("RGB"), "JPEG"),
    "jpeg-444": lambda: encoded(flat("RGB"), "JPEG", subsampling=0),
    "jpeg-grey": lambda: encoded(flat("L"), "JPEG"),
    "jpeg-cmyk": lambda: encoded(flat("CMYK"), "JPEG"),
    "jpeg-turned": lambda: encoded(flat("RGB"), "JPEG", exif=EXIF),
    "jpeg-progressive-420": lambda: encoded(flat("RGB"), "JPEG", progressive=True),
    "jpeg-progressive-444": lambda: encoded(flat("RGB"), "JPEG", progressive=True, subsampling=0),
    "jpeg-progressive-cmyk": lambda: encoded(flat("CMYK"), "JPEG", progressive=True),
    "jpeg-progressive-grey": lambda: encoded(flat("L"), "JPEG", progressive=True),
    "jpeg-cut": lambda: encoded(flat("RGB"), "JPEG", subsampling=0)[:-2],
    **{
        f"png-{colour}-{depth}{'-clear' * bool(more)}": lambda c=colour, d=depth, n=channels, m=more: png(
            samples(n, d), c, d, *m
        )
        for colour, depth, channels, more in (
            (0, 1, 1, ()),
            (0, 8, 1, ()),
            (0, 8, 1, (chunk(b"tRNS", b"\0\x3c"),)),
            (0, 16, 1, ()),
            (0, 16, 1, (chunk(b"tRNS", b"\0\x3c"),)),
            (2, 8, 3, ()),
            (2, 8, 3, (chunk(b"tRNS", b"\0\x3c" * 3),)),
            (2, 16, 3, ()),
            (2, 16, 3, (chunk(b"tRNS", b"\0\x3c" * 3),)),
            (3, 8, 1, (PALETTE,)),
            (3, 8, 1, (PALETTE, CLEAR)),
            (4, 8, 2, ()),
            (4, 16, 2, ()),
            (6, 8, 4, ()),
            (6, 16, 4, ()),
        )
    },
    "png-turned": lambda: encoded(flat("RGB"), "PNG", exif=EXIF),
    "png-wide": lambda: encoded(Image.new("RGB", (SIDE * SIDE, 1)), "PNG"),
    "png-high": lambda: encoded(Image.new("RGB", (1, SIDE * SIDE)), "PNG"),
    "png-wide-16": lambda: png(np.zeros((1, SIDE * SIDE, 4), int), 6, 16),
    "gif": lambda: encoded(flat("P"), "GIF"),
    "gif-interlaced": lambda: encoded(flat("P"), "GIF", interlace=1),
    "gif-canvas": lambda: gif((SIDE, SIDE), (0, 0), flat("P", 1000)),
    "gif-animated": lambda: encoded(flat("P"), "GIF", save_all=True, append_images=[Image.new("P", (SIDE, SIDE))] * 3),
    "bmp-1": lambda: encoded(flat("1"), "BMP"),
    "bmp-8": lambda: encoded(flat("P"), "BMP"),
    "bmp-24": lambda: encoded(flat("RGB"), "BMP"),
    "bmp-32": lambda: encoded(flat("RGBA"), "BMP"),
    "webp": lambda: encoded(flat("RGB"), "WEBP", method=0),
    "webp-alpha": lambda: encoded(flat("RGBA"), "WEBP", method=0),
    "webp-lossless": lambda: encoded(flat("RGBA"), "WEBP", method=0, lossless=True),
    "webp-animated": lambda: encoded(
        flat("RGBA"), "WEBP", method=0, save_all=True, append_images=[Image.new("RGBA", (SIDE, SIDE))] * 2
    ),
    **{
        f"tiff-{mode}-{compression}-{strips}": lambda m=mode, c=compression, s=strips: encoded(
            flat(m), "TIFF", compression=c, tiffinfo={278: s}
        )
        for mode, compression, strips in (
            *(("RGB", compression, SIDE) for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma")),
            *((mode, "tiff_lzw", strips) for mode in ("RGBA", "L", "CMYK", "P") for strips in (100, SIDE)),
            *((mode, None, 100) for mode in ("RGB", "RGBA", "P")),
        )
    },
    "tiff-jpeg": lambda: encoded(flat("RGB"), "TIFF", compression="jpeg"),
    "tiff-jpeg-progressive": lambda: tiff_of(7, encoded(flat("RGB"), "JPEG", progressive=True, subsampling=0), SIDE),
    "tiff-group4": lambda: encoded(flat("1"), "TIFF", compression="group4"),
    "tiff-16": lambda: encoded(Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)), "TIFF", compression="tiff_lzw"),
    "tiff-float": lambda: encoded(Image.fromarray(np.zeros((SIDE, SIDE), np.float32)), "TIFF", compression="zstd"),
    "tiff-lab": lambda: encoded(Image.new("LAB", (SIDE, SIDE)), "TIFF", compression="tiff_lzw"),
    "avif-420": lambda: encoded(flat("RGB"), "AVIF", speed=10),
    "avif-444": lambda: encoded(flat("RGB"), "AVIF", speed=10, subsampling="4:4:4"),
    "avif-alpha": lambda: encoded(flat("RGBA"), "AVIF", speed=10),
    "heic": lambda: HEIC_LARGE,
    # Just small enough to be scaled at once, and tiny.
    **{
        f"{format}-{mode}-{side}": lambda f=format, m=mode, s=side: encoded(flat(m, s), f)
        for side in (1440, 64)
        for format, mode in (("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "CMYK"), ("TIFF", "LAB"))
    },
}


@pytest.mark.parametrize("name", FILES)
def test_no_image_takes_more_than_its_header_is_charged(measure: Callable[[bytes, int], int], name: str) -> None:
    data = FILES[name]()
    header = read_header(data, LIMITS)
    # For the last one no JPEG is decoded at a fraction.
    peaks = [measure(data, size) for size in (32, 560)]
    pixels = header.width * header.height
    print(f"{name}: charged {header.peak_bytes / pixels:.1f}, taken {max(peaks) / pixels:.1f} bytes a pixel")
    assert max(peaks) <= header.peak_bytes
    assert peaks[0] <= read_header(data, LIMITS, Geometry.covering(32, 32)).peak_bytes <= header.peak_bytes
    assert peaks[1] <= read_header(data, LIMITS, Geometry.covering(560, 560)).peak_bytes


def test_a_charge_is_not_far_from_what_is_taken(measure: Callable[[bytes, int], int]) -> None:
    for name in ("png-2-8", "png-0-16", "jpeg-progressive-444", "webp", "tiff-RGB-None-100", "bmp-24"):
        data = FILES[name]()
        assert read_header(data, LIMITS).peak_bytes <= 3 * measure(data, 560), name

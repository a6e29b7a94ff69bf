"""Files as people have them: what a browser shows of them is what the encoder sees."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from secondlook.model.errors import ImageError
from secondlook.model.images import Geometry, Limits, decode, read_header, sniff
from tests.odd_images import (
    HEIC,
    HEIC_CLEAR,
    SIZE,
    bmp,
    chunk,
    encoded,
    exif,
    gif,
    halves,
    jpeg_with,
    photo,
    png,
    png_with,
)

TARGET = SIZE[::-1]
LIMITS = Limits(64_000_000)
PLAIN = encoded(halves(), "PNG")


def seen(data: bytes, size: tuple[int, int] = TARGET) -> np.ndarray:
    return decode(data, Geometry.covering(*size), LIMITS).astype(int)


def same(data: bytes, other: bytes, tolerance: int = 0) -> bool:
    return bool(np.abs(seen(data) - seen(other)).max() <= tolerance)


BIG_TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (3 << 20)))
BIG_PROFILE = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(40 << 20)))


@pytest.mark.parametrize(
    "chunks",
    [
        (BIG_TEXT,),
        (chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * (3 << 20))),),
        (chunk(b"tEXt", b"Comment\0" + b"a" * (2 << 20)),),
        tuple(BIG_TEXT for _ in range(70)),
        (BIG_PROFILE,),
        (chunk(b"iCCP", b"profile\0\0 not zlib"),),
        (chunk(b"pHYs", bytes(9), crc=1),),
        (chunk(b"tEXt", b"a\0b", crc=0), chunk(b"gAMA", b"\0", crc=0)),
        (chunk(b"gAMA", b""),),
        (chunk(b"eXIf", b"II*\0 nonsense"),),
        (chunk(b"acTL", bytes(3)),),
        (chunk(b"acTL", struct.pack(">II", 1 << 31, 0)), chunk(b"fcTL", bytes(26))),
        (chunk(b"tRNS", bytes(6), crc=3),),
        (chunk(b"abCd", b""),) * 3000,
    ],
    ids=lambda chunks: f"{chunks[0][4:8].decode()}-{len(chunks)}-{len(chunks[0])}",
)
def test_what_a_png_carries_beside_its_pixels_changes_nothing(chunks: tuple[bytes, ...]) -> None:
    assert same(png_with(PLAIN, *chunks), PLAIN)


@pytest.mark.parametrize("end", [12, 14, 16, 20])
def test_a_png_whose_pixels_are_all_there_is_answered(end: int) -> None:
    assert same(PLAIN[:-end], PLAIN)
    assert same(PLAIN + b"more", PLAIN)


def test_a_png_without_some_of_its_pixels_is_refused() -> None:
    data = encoded(photo(), "PNG")
    for length in (len(data) // 2, len(data) - 200):
        with pytest.raises(ImageError, match=r"cut short"):
            seen(data[:length])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_turns_every_format_alike(format: str, orientation: int) -> None:
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }[orientation]
    image = photo((64, 48))
    options = {"exif": exif(orientation)} if format != "TIFF" else {"tiffinfo": {274: orientation}}
    if format in ("JPEG", "WEBP", "AVIF"):
        options["exif"] = b"Exif\0\0" + exif(orientation)
        options["quality"] = 95
    expected = turned(np.asarray(image).astype(int))
    decoded = seen(encoded(image, format, **options), expected.shape[:2])
    assert np.abs(decoded - expected).mean() < 12
    if orientation > 1:
        assert np.abs(decoded - expected).mean() < np.abs(decoded - expected[::-1]).mean()


ODD_ENTRIES = [
    struct.pack("<HHII", 0x0128, 2, 3, 0x00323232),  # the unit of resolution as text
    struct.pack("<HHII", 0x0128, 99, 1, 2),  # a type that does not exist
    struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFF0),  # a directory outside of the file
    struct.pack("<HHII", 0x010F, 2, 0xFFFFFFFF, 0xFFFFFFFF),  # a text of 4 GB
    struct.pack("<HHII", 0x011A, 5, 0, 0),  # a fraction of no numbers
]


@pytest.mark.parametrize("entry", ODD_ENTRIES)
def test_an_odd_tag_beside_the_orientation_does_not_matter(entry: bytes) -> None:
    image = encoded(halves(), "JPEG", quality=95, subsampling=0)
    odd = jpeg_with(image, (0xE1, b"Exif\0\0" + exif(3, "<", 3, entry)))
    assert np.abs(seen(odd) - seen(image)[::-1, ::-1]).max() <= 8
    assert same(png_with(PLAIN, chunk(b"eXIf", exif(3, "<", 3, entry))), png_with(PLAIN, chunk(b"eXIf", exif(3))))


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_that_there_is_not_turns_nothing(value: int, order: str) -> None:
    assert same(png_with(PLAIN, chunk(b"eXIf", exif(value, order))), PLAIN)


def test_transparent_colours_of_every_depth_lie_on_white() -> None:
    for depth in (1, 2, 4, 8, 16):
        most = (1 << depth) - 1
        samples = np.full((48, 64), most // 3)
        samples[:, 32:] = most - most // 4 if depth > 1 else 1
        left = png(samples, 0, depth, chunk(b"tRNS", struct.pack(">H", most // 3)))
        assert (seen(left)[:, :32] == 255).all(), depth
        assert same(png(samples, 0, depth, chunk(b"tRNS", struct.pack(">H", most // 3))), left)
        assert np.abs(seen(left)[:, 32:] - samples[0, 40] * 255 / most).max() <= 1, depth


def test_a_transparent_colour_of_16_bits_is_that_colour_alone() -> None:
    samples = np.full((48, 64), 0x1234)
    samples[:, 32:] = 0x1235
    decoded = seen(png(samples, 0, 16, chunk(b"tRNS", struct.pack(">H", 0x1234))))
    assert (decoded[:, :32] == 255).all()
    assert (decoded[:, 32:] == 0x12).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_rgb_colour_lies_on_white(depth: int) -> None:
    scale = 257 if depth == 16 else 1
    samples = np.asarray(halves()).astype(int) * scale
    samples[:, :32] = np.array([200, 100, 50]) * scale
    clear = chunk(b"tRNS", struct.pack(">HHH", *(scale * s for s in (200, 100, 50))))
    decoded = seen(png(samples, 2, depth, clear))
    assert (decoded[:, :32] == 255).all()
    assert (decoded[:, 32:] == [0, 0, 255]).all()


def test_a_transparent_rgb_colour_of_16_bits_is_that_colour_alone() -> None:
    samples = np.full((48, 64, 3), [0x1234, 0x5678, 0x9ABC])
    samples[:, 32:, 2] += 1
    decoded = seen(png(samples, 2, 16, chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))))
    assert (decoded[:, :32] == 255).all()
    assert (decoded[:, 32:] == [0x12, 0x56, 0x9A]).all()


def test_the_first_orientation_counts_and_only_a_proper_one() -> None:
    image = encoded(halves(), "JPEG", quality=95)
    upright, turned = (0xE1, b"Exif\0\0" + exif(1)), (0xE1, b"Exif\0\0" + exif(3))
    assert same(jpeg_with(image, upright, turned), image)
    assert same(jpeg_with(image, turned, upright), jpeg_with(image, turned))
    assert same(jpeg_with(image, (0xE1, b"Exif\0\0" + exif(3, "<", 4))), image)


def test_grey_with_alpha_of_16_bits_lies_on_white() -> None:
    samples = np.zeros((48, 64, 2), int)
    samples[:, :32] = [0x8080, 0xFFFF]
    decoded = seen(png(samples, 4, 16))
    assert np.abs(decoded[:, :32] - 0x80).max() <= 1
    assert (decoded[:, 32:] == 255).all()


def test_a_palette_with_transparent_entries_lies_on_white() -> None:
    samples = np.zeros((48, 64), int)
    samples[:, 32:] = 1
    palette = chunk(b"PLTE", bytes([200, 0, 0, 0, 0, 200]))
    for depth in (1, 2, 4, 8):
        decoded = seen(png(samples, 3, depth, palette, chunk(b"tRNS", b"\0")))
        assert (decoded[:, :32] == 255).all()
        assert (decoded[:, 32:] == [0, 0, 200]).all()


def bgra(alpha: int) -> bytes:
    pixels = np.asarray(halves())[::-1, :, ::-1]
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, np.uint8)]).tobytes()


MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("compression", [0, 3])
@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bmp_of_32_bits_whose_alpha_says_nothing_is_opaque(header: int, compression: int, alpha: int) -> None:
    masks = MASKS[: 3 if header == 40 else 4] if compression else ()
    assert same(bmp(bgra(alpha), SIZE, 32, compression, header, masks), PLAIN)


def test_a_bmp_with_some_alpha_is_transparent() -> None:
    pixels = np.frombuffer(bgra(255), np.uint8).reshape(48, 64, 4).copy()
    pixels[:, :32, 3] = 0
    decoded = seen(bmp(pixels.tobytes(), SIZE, 32, 3, 124, MASKS))
    assert (decoded[:, :32] == 255).all()
    assert (decoded[:, 32:] == [0, 0, 255]).all()


def test_a_bmp_from_above_downwards() -> None:
    rows = np.asarray(photo(SIZE))[:, :, ::-1]
    assert same(bmp(rows.tobytes(), (64, -48), 24), encoded(photo(SIZE), "PNG"))


def test_cmyk_jpegs_are_shown_as_browsers_do() -> None:
    cmyk = encoded(halves().convert("CMYK"), "JPEG", quality=95)
    assert np.abs(seen(cmyk) - seen(PLAIN)).mean() < 6


@pytest.mark.parametrize("cut", [1, 2, 3, 10])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_a_jpeg_without_its_last_bytes_is_answered(cut: int, options: dict[str, object]) -> None:
    data = encoded(photo(), "JPEG", quality=90, **options)
    assert np.abs(seen(data[:-cut]) - seen(data)).mean() < 2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_jpeg_without_its_lower_rows_is_refused_and_says_what_is_there(share: float) -> None:
    data = encoded(photo(), "JPEG", quality=90)
    with pytest.raises(ImageError, match=r"cut short: only the upper \d+% of the image is there"):
        seen(data[: int(len(data) * share)])


def test_a_progressive_jpeg_shows_all_of_the_image_early() -> None:
    data = encoded(photo(), "JPEG", quality=90, progressive=True)
    assert np.abs(seen(data[: len(data) * 2 // 3]) - seen(data)).mean() < 12
    with pytest.raises(ImageError, match="cut short"):
        seen(data[: data.index(b"\xff\xda") + 20])


def test_what_stands_around_a_jpeg_does_not_matter() -> None:
    data = encoded(photo(), "JPEG", quality=90)
    start = data.index(b"\xff\xdb")
    odd = [
        data + b"garbage" * 1000,
        data + data,
        data[:start] + b"\xff" * 50 + data[start:],
        data[:start] + b"\0\1\2" + data[start:],
        jpeg_with(
            data, (0xE2, b"MPF\0" + bytes(60)), (0xE2, b"ICC_PROFILE\0\1\1" + bytes(60000)), (0xFE, b"x" * 60000)
        ),
        jpeg_with(data, (0xE1, b"Exif\0\0"), (0xED, b"Photoshop 3.0\0" + b"\xff\xda" * 900)),
    ]
    for other in odd:
        assert same(other, data)


def test_a_gif_smaller_than_its_canvas_lies_on_white() -> None:
    red = Image.new("P", (32, 48), 1)
    red.putpalette([0, 0, 200, 200, 0, 0])
    decoded = seen(gif(SIZE, (32, 0), red))
    assert (decoded[:, :32] == 255).all()
    assert (decoded[:, 32:] == [200, 0, 0]).all()
    assert (seen(gif(SIZE, (0, 0), red.resize(SIZE), clear=0)) == 255).all()


def test_the_first_of_several_is_taken() -> None:
    second = Image.new("RGB", SIZE, (0, 250, 0))
    for format in ("GIF", "WEBP", "TIFF", "PNG", "AVIF"):
        assert same(encoded(halves(), format, save_all=True, append_images=[second]), encoded(halves(), format), 4)


TIFFS = [
    {"compression": c} for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", "tiff_deflate")
]


@pytest.mark.parametrize("options", TIFFS, ids=lambda options: str(options["compression"]))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_tiffs_of_all_compressions_are_read(mode: str, options: dict[str, str]) -> None:
    assert np.abs(seen(encoded(halves().convert(mode), "TIFF", **options)) - seen(PLAIN)).max() <= 2


def test_tiffs_of_other_samples_are_read() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(48, axis=0)
    expected = np.round(ramp * 255)[..., None]
    assert np.abs(seen(encoded(Image.fromarray(ramp), "TIFF")) - expected).max() <= 1
    sixteen = Image.fromarray((ramp * 65535).astype(np.uint16))
    assert np.abs(seen(encoded(sixteen, "TIFF")) - expected).max() <= 1
    inverted = encoded(sixteen, "TIFF", tiffinfo={262: 0})
    inverted = inverted.replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))
    assert np.abs(seen(inverted) - (255 - expected)).max() <= 1
    lab = Image.fromarray(np.full((48, 64, 3), (128, 0, 0), np.uint8), "LAB")
    assert np.abs(seen(encoded(lab, "TIFF")) - 119).max() <= 3
    bits = encoded(halves().convert("1"), "TIFF", compression="group4")
    assert np.abs(seen(bits) - seen(encoded(halves().convert("1"), "PNG"))).max() == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            encoded(Image.fromarray(np.full((8, 8), 300, np.float32)), "TIFF"),
            "floating-point samples outside",
        ),
        (encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "floating-point samples"),
        (encoded(Image.fromarray(np.full((8, 8), 300, np.int32)), "TIFF"), "samples of 32 bits"),
        (b"II+\0" + bytes(60), "BigTIFF"),
        (jpeg_with(encoded(halves(), "JPEG")[:20]), "cut short before its pixels"),
        (b"BM" + bytes(8), "cut short"),
        (PLAIN[:40], "cut short before its pixels"),
        (encoded(halves(), "BMP")[:-50], "not all of its pixels"),
        (encoded(halves(), "TIFF")[:-50], "cut short: not all of its pixels"),
        (encoded(halves(), "WEBP")[:-50], "damaged or cut short"),
        (encoded(halves(), "AVIF")[:-50], "damaged or cut short"),
        (HEIC[:-50], "damaged or cut short"),
        (encoded(halves(), "GIF")[:40], "cut short"),
        (encoded(halves(), "JPEG2000"), "not one of JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC"),
    ],
)
def test_what_stays_refused_says_why(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        seen(data)


def test_heic_is_read() -> None:
    assert sniff(HEIC[:64]) == "HEIC"
    assert read_header(HEIC, LIMITS)[:3] == ("HEIC", *SIZE)
    assert np.abs(seen(HEIC) - seen(PLAIN)).mean() < 4
    decoded = seen(HEIC_CLEAR)
    assert decoded[:, 40:].min() > 250
    assert decoded[24, 8, 0] > 240
    assert decoded[24, 8, 1:].max() < 10

"""What images become on their way to the encoder."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from secondlook.model.errors import ImageError, ImageTooLargeError
from secondlook.model.images import FORMATS, SMALL, Limits, decode, fit, read_header, sniff

LIMITS = Limits(64_000_000)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def halves(width: int = 64, height: int = 64) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "HEIC"])
def test_every_promised_format_is_read(format: str) -> None:
    decoded = decode(encoded(halves(), format), SMALL, LIMITS)
    assert decoded.shape == (32, 32, 3)
    assert decoded.dtype == np.uint8
    assert decoded[16, 4, 0] > 200 > 60 > decoded[16, 4, 2]
    assert decoded[16, 27, 2] > 200 > 60 > decoded[16, 27, 0]


def test_another_format_is_refused() -> None:
    with pytest.raises(ImageError, match="not one of JPEG, PNG"):
        decode(encoded(halves(), "JPEG2000"), SMALL, LIMITS)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: the camera was held the wrong way round
    decoded = decode(encoded(halves(), "JPEG", exif=exif), SMALL, LIMITS)
    assert decoded[16, 4, 2] > 200 > 60 > decoded[16, 4, 0]


def test_the_centre_is_kept_of_a_wide_image() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    assert decode(encoded(Image.fromarray(pixels), "PNG"), SMALL, LIMITS).mean() > 240


def test_transparent_pixels_lie_on_white() -> None:
    transparent = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (decode(encoded(transparent, "PNG"), SMALL, LIMITS) == 255).all()


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    samples = np.full((32, 32), 32896, np.uint16)  # half of 65,535
    decoded = decode(encoded(Image.fromarray(samples), "PNG"), SMALL, LIMITS)
    assert np.abs(decoded.astype(int) - 128).max() <= 1


def test_cmyk_is_converted() -> None:
    decoded = decode(encoded(halves().convert("CMYK"), "JPEG"), SMALL, LIMITS)
    assert decoded[16, 4, 0] > 200 > 60 > decoded[16, 4, 2]


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animated, SMALL, LIMITS)[0, 0, 0] > 200


def test_a_large_jpeg_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def spy(self: ImageFile.ImageFile) -> object:
        asked.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    decode(encoded(halves(4096, 4096), "JPEG"), SMALL, LIMITS)
    assert max(width for width, _ in asked) <= 1024


@pytest.mark.parametrize("width", [127, 128, 300, 1000])
def test_a_jpeg_decoded_at_a_fraction_looks_as_it_does_in_full(width: int) -> None:
    y, x = np.mgrid[0:1:128j, 0 : 1 : width * 1j]
    waves = np.stack([np.sin(10 * x + 4.5 * y), np.cos(15 * y * x), np.sin(6.5 * y - 13 * x)], axis=2)
    photo = encoded(Image.fromarray((127 + 120 * waves).astype(np.uint8)), "JPEG", quality=95)
    in_full = fit(Image.open(io.BytesIO(photo)).convert("RGB"), SMALL).astype(int)
    difference = np.abs(decode(photo, SMALL, LIMITS) - in_full)
    assert difference.max() <= 2
    assert difference.mean() < 0.45


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "empty"), (b"hello", "not one of"), (encoded(halves(), "JPEG")[:300], "cut short")],
)
def test_what_is_no_image_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        decode(data, SMALL, LIMITS)


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(ImageTooLargeError, match="65 x 64"):
        decode(encoded(halves(65, 64), "PNG"), SMALL, Limits(pixels=64 * 64))


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "HEIC"])
def test_a_format_is_known_by_its_first_bytes(format: str) -> None:
    data = encoded(halves(), format)
    assert sniff(data[:64]) == format
    assert sniff(b"x" + data[:63]) is None
    header = read_header(data, LIMITS)
    assert header[:3] == (format, 64, 64)
    assert header.peak_bytes > 64 * 64

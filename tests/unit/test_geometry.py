"""What of an image a network sees: held to Pillow's own whole-image operations, and to torchvision's."""

import io
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import TypeAdapter, ValidationError

from secondlook.model.images import Geometry, Interpolation, Limits, Rule, decode, fit
from secondlook.model.images.decoder import JOB_BYTES, Job
from tests.images_for_tests import photos

INTERPOLATIONS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
SIZES = [(64, 64), (97, 64), (64, 97), (333, 210), (40, 200), (1, 70), (31, 33)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(photos(1, 128, seed)[0]).resize((width, height))


def geometry(**fields: Any) -> Geometry:
    return Geometry(**{"height": 48, "width": 48, **fields})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_squash_is_a_resize(size: tuple[int, int], interpolation: str) -> None:
    image, how = picture(*size), geometry(rule="squash", interpolation=interpolation)
    expected = image.resize((48, 48), Image.Resampling[interpolation.upper()])
    assert np.array_equal(fit(image, how), np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shorter", [48, 55, 64])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_crop_is_what_torchvision_does(size: tuple[int, int], shorter: int, interpolation: str) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    image = picture(*size)
    expected = center_crop(resize(image, [shorter], InterpolationMode(interpolation)), [48])
    seen = fit(image, geometry(crop_share=48 / shorter, interpolation=interpolation))
    difference = np.abs(seen.astype(int) - np.asarray(expected))
    if interpolation == "nearest":  # where two pixels are as near, it may be the other one: in one of 48 rows, say
        assert (difference > 0).mean() < 0.08
    else:  # Pillow may go down first, and rounds in between
        assert difference.max() <= 2
        assert difference.mean() < 0.3


@pytest.mark.parametrize("size", SIZES)
def test_pad_is_pillows(size: tuple[int, int]) -> None:
    image, how = picture(*size), geometry(rule="pad", interpolation="bicubic", fill=(9, 8, 7))
    expected = ImageOps.pad(image, (48, 48), Image.Resampling.BICUBIC, color=(9, 8, 7))
    assert np.array_equal(fit(image, how), np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(48, 48), (32, 56)])
def test_cover_is_pillows(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*size)
    expected = ImageOps.fit(image, target[::-1], Image.Resampling.BICUBIC)
    seen = fit(image, Geometry.covering(*target))
    assert np.abs(seen.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("rule", ["crop", "cover", "squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1900, 1300), (1300, 1900)])
def test_large_images_in_bands_are_as_if_scaled_whole(rule: str, interpolation: str, size: tuple[int, int]) -> None:
    share = {} if rule == "pad" else {"crop_share": 0.875}
    how = Geometry(height=96, width=64, rule=rule, interpolation=interpolation, **share)  # type: ignore[arg-type]
    image = picture(*size)
    whole = fit(image, how)
    clear = image.copy()
    clear.putalpha(255)
    assert np.abs(fit(clear, how).astype(int) - whole).max() <= 2
    turned = image.transpose(Image.Transpose.ROTATE_90)  # what a camera stores that was held upright
    assert np.abs(fit(turned, how, orientation=6).astype(int) - whole).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(40, 52_500), (5, 420_000)])
def test_narrow_images_in_strips_are_as_if_scaled_whole(interpolation: Interpolation, size: tuple[int, int]) -> None:
    how = Geometry(height=96, width=64, rule="squash", interpolation=interpolation)
    image = picture(40, 3_000).resize(size, Image.Resampling.BILINEAR)
    whole = fit(image, how)
    clear = image.copy()
    clear.putalpha(255)
    assert np.abs(fit(clear, how).astype(int) - whole).max() <= 2
    turned = image.transpose(Image.Transpose.ROTATE_90)
    assert np.abs(fit(turned, how, orientation=6).astype(int) - whole).max() <= 2


@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_a_decoder_is_told_the_whole_geometry_in_so_many_bytes(rule: Rule, interpolation: Interpolation) -> None:
    share = 1.0 if rule == "pad" else 0.875
    how = Geometry(height=4096, width=3, rule=rule, crop_share=share, interpolation=interpolation, fill=(255, 0, 128))
    job = Job(2**40, 2**63, 0, 2**35, 61, how)
    assert len(job.packed()) == JOB_BYTES
    assert Job.unpacked(job.packed()) == job


@pytest.mark.parametrize("rule", ["crop", "cover", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (2, 2)])
def test_any_shape_becomes_the_networks(rule: str, size: tuple[int, int]) -> None:
    how = Geometry(height=20, width=30, rule=rule)  # type: ignore[arg-type]
    white = fit(Image.new("RGB", size, (255, 255, 255)), how)
    assert white.shape == (20, 30, 3)
    assert (white == 255).all() if rule != "pad" else (white == 255).any()


def test_a_large_jpeg_is_decoded_for_what_is_cut_off_too() -> None:
    buffer = io.BytesIO()
    picture(800, 600).save(buffer, "JPEG", quality=95)
    how = geometry(crop_share=0.5, interpolation="bicubic")
    in_full = fit(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"), how).astype(int)
    assert np.abs(decode(buffer.getvalue(), how, Limits(10**6)) - in_full).mean() < 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"width": 100_000},
        {"rule": "stretch"},
        {"crop_share": 0.0},
        {"crop_share": 1.2},
        {"interpolation": "cubic"},
        {"rule": "pad", "crop_share": 0.9},
        {"shorter": 256},
        {"fill": (256, 0, 0)},
        {"fill": (0, -1, 0)},
    ],
)
def test_what_is_no_geometry_is_refused(wrong: dict[str, Any]) -> None:
    """In records, and where code makes one."""
    with pytest.raises(ValidationError):
        TypeAdapter(Geometry).validate_python({"height": 48, "width": 48, **wrong})
    with pytest.raises((ValueError, TypeError), match=r"must be|choose|not cropped|unexpected"):
        geometry(**wrong)

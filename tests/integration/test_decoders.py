"""Processes that decode, and whose turn it is: real ones, without a server."""

import asyncio
import io
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from secondlook.model.errors import ImageError, ImageTooLargeError, ImageTooSlowError
from secondlook.model.images import FORMATS, Geometry, Interpolation, Limits, Rule, decode, read_header
from secondlook.service.decoding.jobs import QUICK_BYTES, QUICK_FILE_BYTES, QUICK_PIXELS, Job, Spending
from tests.decoders_for_tests import (
    LARGE,
    LARGER,
    LIMITS,
    SMALL,
    TARGET,
    Running,
    is_gone,
    rle,
    run,
    until,
)
from tests.images_for_tests import COLOURS, make_image


def test_pixels_and_errors_are_those_of_decode() -> None:
    async def test(it: Running) -> None:
        files = [make_image(colour, (200, 150), format) for colour in COLOURS for format in ("PNG", "JPEG", "WEBP")]
        files += [LARGE, make_image("red", (1500, 1500), "JPEG"), make_image("blue", (700, 700), "BMP")]
        assert len(files[-1]) > QUICK_FILE_BYTES
        found = await asyncio.gather(*(it.decode(file) for file in files))
        for file, pixels in zip(files, found, strict=True):
            np.testing.assert_array_equal(pixels, decode(file, TARGET, LIMITS))
        wrong = [b"", b"no image", SMALL[:1000], LARGE[: len(LARGE) // 2], LARGER]
        for file in wrong:
            with pytest.raises(ImageError) as expected:
                decode(file, TARGET, Limits(20_000_000))
            with pytest.raises(ImageError) as error:
                await it.decode(file, limits=Limits(20_000_000))
            assert (type(error.value), str(error.value)) == (type(expected.value), str(expected.value))

    run(test)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_each_image_is_decoded_with_the_geometry_that_is_asked_for(rule: Rule) -> None:
    share = 1.0 if rule == "pad" else 0.875
    asked = [
        Geometry(
            height=40, width=side, rule=rule, crop_share=share, interpolation=interpolation, fill=(side % 256, 2, 255)
        )
        for interpolation, side in zip(get_args(Interpolation), (40, 60, 20, 40, 700, 1), strict=True)
    ]

    async def test(it: Running) -> None:
        files = [make_image("red", (200, 150), "PNG"), make_image("blue", (1500, 1100), "JPEG")]
        every = [(file, geometry) for file in files for geometry in asked]
        found = await asyncio.gather(*(it.decode(file, geometry=geometry) for file, geometry in every))
        for (file, geometry), pixels in zip(every, found, strict=True):
            np.testing.assert_array_equal(pixels, decode(file, geometry, LIMITS))

    run(test)


def test_an_image_for_a_large_target_is_decoded() -> None:
    async def test(it: Running) -> None:
        for file in (make_image("red", (1000, 1000), "WEBP"), make_image("red", (30, 30), "PNG")):
            for side in (1024, 3000):
                geometry = Geometry(height=side, width=side, rule="pad")
                pixels = await it.decode(file, geometry=geometry)
                np.testing.assert_array_equal(pixels, decode(file, geometry, LIMITS))

    run(test)


def test_an_image_that_takes_too_long_is_ended() -> None:
    async def test(it: Running) -> None:
        decoding = asyncio.create_task(it.decode(LARGER))
        pid = await it.busy()
        with pytest.raises(ImageTooSlowError, match=r"0\.1 s of the processor"):
            await decoding
        await until(lambda: is_gone(pid))
        assert it.ended("too_slow") == 1
        assert (await it.decode(SMALL)).any()

    run(test, max_seconds=0.1)


def test_the_images_of_a_request_share_its_time() -> None:
    async def test(it: Running) -> None:
        spending = it.decoders.spending(8)
        assert spending.limit_s == pytest.approx(0.8)
        files = [SMALL, *[LARGER] * 7]
        found = await asyncio.gather(*(it.decode(file, spending) for file in files), return_exceptions=True)
        assert isinstance(found[0], np.ndarray)
        assert sum(isinstance(one, ImageTooSlowError) for one in found) >= 6
        assert spending.spent_s < 2  # and not eight seconds

    run(test, max_seconds=0.4)


def test_small_images_do_not_wait_for_large_ones() -> None:
    async def test(it: Running) -> None:
        large = [asyncio.create_task(it.decode(LARGER)) for _ in range(4)]
        await it.busy()
        for _ in range(20):
            await it.decode(SMALL)
        assert not any(task.done() for task in large)
        await asyncio.gather(*large)

    run(test)


def test_one_that_is_in_the_way_of_a_smaller_one_is_begun_anew() -> None:
    async def test(it: Running) -> None:
        larger = asyncio.create_task(it.decode(LARGER))
        await it.busy()
        await it.decode(LARGE)
        assert not larger.done()
        assert it.ended("put_off") == 1
        assert (await larger).any()

    run(test, places=1)


def test_images_of_the_same_size_are_not_ended_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.service.decoding.decoders.LONG_TURN_S", 0.05)

    async def test(it: Running) -> None:
        found = await asyncio.gather(*(it.decode(LARGE) for _ in range(3)))
        assert all(pixels.any() for pixels in found)
        assert it.ended("put_off") == 0

    run(test, places=1)


def test_an_image_in_the_wrong_lane_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few pixels, much work: nothing that is refused, so the lane itself is made narrow.
    monkeypatch.setattr("secondlook.service.decoding.decoders.QUICK_S", 0.0)

    async def test(it: Running) -> None:
        slow = [asyncio.create_task(it.decode(make_image("red", (1000, 1000), "WEBP", seed))) for seed in range(4)]
        await it.busy()
        assert all(pixels.any() for pixels in await asyncio.gather(*slow))
        # Those that went on are as many as slow ones may be; the others were begun anew.
        assert len([process for process in it.decoders._processes if process.nice > 5]) <= 2

    run(test, places=1)


def test_many_images_in_the_wrong_lane_let_others_go_first() -> None:
    # Few bytes and pixels, and much work: each has a long way to go until it is known that it is in the wrong lane.
    costly = rle(600)

    async def test(it: Running) -> None:
        many = [asyncio.create_task(it.decode(costly)) for _ in range(40)]
        await it.busy()
        assert (await it.decode(SMALL)).any()
        assert it.ended("put_off") < 20
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)

    run(test, places=1)


def test_memory_is_never_more_than_there_is() -> None:
    async def test(it: Running) -> None:
        free = []
        decoding = asyncio.gather(*(it.decode(LARGE) for _ in range(4)))
        while not decoding.done():
            free.append(it.decoders._free_bytes())
            await asyncio.sleep(0.001)
        assert all(pixels.any() for pixels in decoding.result())
        assert min(free) >= 0
        with pytest.raises(ImageTooLargeError, match=r"takes [\d,]+ MiB of memory, more than the [\d,]+ MiB"):
            await it.decode(LARGER)

    run(test, max_bytes=2 * QUICK_BYTES + (200 << 20))


def test_an_image_that_takes_more_than_it_was_charged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if its header had told of few pixels: of some formats it can, beside many.
    monkeypatch.setattr("secondlook.service.decoding.jobs.QUICK_PIXELS", 2**63)

    async def test(it: Running) -> None:
        with pytest.raises(ImageError, match="more memory than its size should need"):
            await it.decode(LARGER)
        assert (await it.decode(SMALL)).any()

    run(test)


GEOMETRIES = [
    TARGET,
    Geometry(height=224, width=224, rule="squash", interpolation="lanczos"),
    Geometry(height=560, width=560, rule="pad"),
    Geometry(height=1000, width=1000),
    Geometry(height=2048, width=2048, rule="squash"),
    Geometry(height=32, width=4096, rule="squash", interpolation="lanczos"),
    Geometry(height=4096, width=4096, rule="pad"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_decoded_without_asking_takes_no_more_than_is_set_aside(format: str, geometry: Geometry) -> None:
    async def at_once() -> int:
        future = asyncio.get_running_loop().create_future()
        return Job(b"", np.empty(0, np.uint8), geometry, LIMITS, Spending(1.0), 0.0, future, 0).at_once

    pixels = asyncio.run(at_once())
    if geometry is TARGET:
        assert pixels == QUICK_PIXELS
    if not pixels:
        return  # it is always asked
    side = int(pixels**0.5)
    with pytest.raises(ImageTooLargeError):
        decode(make_image("red", (side + 1, side + 1), "PNG"), TARGET, Limits(pixels))
    for size in ((side, side), (4 * side, side // 4), (side // 4, 4 * side)):
        buffer = io.BytesIO()
        try:
            Image.new("RGB", size).save(buffer, format, **({"speed": 10} if format == "AVIF" else {}))
        except (KeyError, OSError):
            pytest.skip(f"Pillow does not write {format}")
        file = buffer.getvalue()
        assert read_header(file, LIMITS, geometry).peak_bytes + 2 * QUICK_FILE_BYTES <= QUICK_BYTES

"""A batch computed: what each request of it gets."""

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secondlook.model.answering.predictor import Answer, Overrides, Parameters
from secondlook.model.errors import ParameterError
from secondlook.model.images import Geometry
from secondlook.service.batching.batcher import Batcher
from secondlook.service.errors import GeometryChangedError
from tests.batcher_for_tests import BAD, MOST, PATIENCE, TINY, Scripted, busy, image, queued, said, scenario


def test_the_pixels_of_a_request_that_is_alone_in_its_batch_are_not_copied() -> None:
    seen: list[NDArray[np.uint8]] = []

    class Keeping(Scripted):
        def predict(self, images: Any, *args: Any, **options: Any) -> list[Answer]:
            seen.append(images)
            return super().predict(images, *args, **options)

    async def run() -> None:
        batcher = Batcher(Keeping(), max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        (few, _), (many, _) = image(1, 2), image(*range(6))
        await batcher.submit(few, TINY)
        await batcher.submit(many, TINY)
        assert [len(images) for images in seen] == [2, 4, 2]
        assert np.shares_memory(seen[0], few)
        assert all(np.shares_memory(images, many) for images in seen[1:])
        await batcher.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_overrides_and_neighbours_are_each_requests_own() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        few = asyncio.create_task(batcher.submit(*image(2), Overrides(lam=0.25), 1))
        many = asyncio.create_task(batcher.submit(*image(3), Overrides(lam=0.75), 3))
        await asyncio.sleep(0)
        scripted.gate.set()
        await first
        for task, lam, count in ((few, 0.25, 1), (many, 0.75, 3)):
            reply = await task
            assert isinstance(reply.wanted, Parameters)
            assert reply.wanted.lam == lam
            answer = reply.answers[0]
            assert isinstance(answer, Answer)
            assert answer.mixed[1] == lam
            assert [len(part) for part in (answer.ids, answer.values, answer.similarities, answer.weights)] == [
                count
            ] * 4

    assert scenario(body).calls == [[1], [2, 3]]


def test_only_the_bad_image_of_a_failed_batch_fails() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2), image(BAD, 3))
        scripted.gate.set()
        assert said((await others[0]).answers) == [2]
        assert said((await others[1]).answers) == ["a bad image", 3]
        await first
        assert said((await batcher.submit(*image(4))).answers) == [4]

    # Once together, once each alone, and no more.
    assert scenario(body).calls == [[1], [2, BAD, 3], [2], [BAD], [3], [4]]


def test_a_k_that_the_store_cannot_serve_fails_its_request_alone() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        bad = asyncio.create_task(batcher.submit(*image(2), Overrides(k=MOST + 1)))
        good = asyncio.create_task(batcher.submit(*image(3)))
        await asyncio.sleep(0)
        scripted.gate.set()
        with pytest.raises(ParameterError, match="k must be"):
            await bad
        assert said((await good).answers) == [3]
        await first

    assert scenario(body).calls == [[1], [3]]


def test_each_request_is_answered_by_one_generation() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        second = Scripted("second")
        scripted.gate.clear()
        long = asyncio.create_task(batcher.submit(*image(1, 2, 3, 4, 5, 6)))
        assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
        batcher.predictor = second  # type: ignore[assignment]
        later = (await queued(batcher, image(7)))[0]
        scripted.gate.set()
        assert (await long).predictor.name == "first"
        assert (await later).predictor.name == "second"
        assert second.calls == [[7]]

    assert scenario(body).calls == [[1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize("now", [Geometry.covering(5, 5), Geometry(height=2, width=2, rule="squash")])
def test_images_decoded_with_another_geometry_are_refused(now: Geometry) -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2), image(3, geometry=now))
        batcher.predictor = Scripted("second", now)  # type: ignore[assignment]
        scripted.gate.set()
        await first
        with pytest.raises(GeometryChangedError):
            await others[0]
        assert said((await others[1]).answers) == [3]

    scenario(body)


def test_a_batch_that_cannot_be_put_together_fails_alone() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        waiting = await queued(batcher, image(2), (np.zeros((1, 2, 2, 4), np.uint8), TINY))  # of other channels
        scripted.gate.set()
        for task in waiting:
            with pytest.raises(ValueError, match="dimensions"):
                await task
        assert said((await batcher.submit(*image(3))).answers) == [3]
        assert (batcher.restarts, batcher.is_running) == (0, True)
        await first

    scenario(body)

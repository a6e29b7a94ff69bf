"""Whose turn it is: which requests are computed together, and in which order."""

import asyncio
import time
from typing import Any

import pytest

from secondlook.model.answering.predictor import Answer, Overrides
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.service.batching.batcher import Batcher
from secondlook.service.batching.turns import Timing
from tests.batcher_for_tests import BAD, PATIENCE, Scripted, busy, image, queued, said, scenario


def test_requests_gather_while_the_thread_is_busy() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2), image(3, 4), image(5, 6))
        scripted.gate.set()
        replies = await asyncio.gather(first, *others)
        assert [said(reply.answers) for reply in replies] == [[1], [2], [3, 4], [5, 6]]

    # The fourth request would make the second batch five images: what fits into one is not divided.
    assert scenario(body).calls == [[1], [2, 3, 4], [5, 6]]


def test_a_request_larger_than_a_batch_is_computed_in_parts_with_others_between() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2, 3, 4, 5, 6, 7), image(8))
        scripted.gate.set()
        assert said((await others[0]).answers) == [2, 3, 4, 5, 6, 7]
        await asyncio.gather(first, *others)

    assert scenario(body).calls == [[1], [8, 2, 3, 4], [5, 6, 7]]


def test_one_who_comes_alone_waits_for_a_part_and_not_for_all_that_came_before() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        large = await queued(batcher, *(image(*[10 * i] * 12) for i in range(2, 6)))
        scripted.entered.clear()
        scripted.gate.set()
        await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
        scripted.gate.clear()
        seen = len(scripted.calls)
        alone = (await queued(batcher, image(7)))[0]
        scripted.gate.set()
        await alone
        place = next(i for i, call in enumerate(scripted.calls) if 7 in call)
        assert place <= seen + 1, "it waited for more than what was being computed, and the oldest's turn"
        for task, value in zip(large, range(2, 6), strict=True):
            assert said((await task).answers) == [10 * value] * 12
        await first

    scenario(body)


def test_large_requests_come_to_their_end_one_after_the_other() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        large = await queued(batcher, image(*[2] * 16), image(*[3] * 16))
        scripted.gate.set()
        await asyncio.gather(first, *large)

    calls = scenario(body).calls
    assert calls[1:] == 4 * [[2] * 4] + 4 * [[3] * 4]


def test_a_stream_of_small_requests_does_not_keep_a_large_one_from_its_end() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        large = (await queued(batcher, image(*[2] * 12)))[0]
        scripted.gate.set()

        async def stream() -> None:
            while not large.done():
                await batcher.submit(*image(9))

        await asyncio.gather(first, large, *(stream() for _ in range(16)))

    scenario(body)


def test_images_that_cost_much_come_in_batches_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.service.batching.turns.TURN_S", 0.02)

    class Slow(Scripted):
        def predict(self, images: Any, asked: Any, neighbors: int = 0, timer: StageTimer | None = None) -> list[Answer]:
            time.sleep(0.04 * len(images) if asked[0].k is None else 0)
            return super().predict(images, asked, neighbors, timer)

    async def run() -> None:
        slow = Slow()
        batcher = Batcher(slow, max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        costly = [asyncio.create_task(batcher.submit(*image(*[2] * 8), Overrides(k="all"))) for _ in range(2)]
        await asyncio.sleep(0.06)
        assert said((await batcher.submit(*image(*[3] * 4))).answers) == [3] * 4
        assert not any(task.done() for task in costly)
        await asyncio.gather(*costly)
        assert {len(call) for call in slow.calls if call[0] == 2} <= {1, 2}
        assert [3] * 4 in slow.calls
        await batcher.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_usual_requests_go_between_the_steps_of_a_costly_one() -> None:
    class Stepping(Scripted):
        def predict(self, images: Any, asked: Any, neighbors: int = 0, timer: StageTimer | None = None) -> list[Answer]:
            assert timer is not None
            if asked[0].k is None:
                for _ in timer.each(range(3)):
                    self.entered.set()
                    assert self.gate.wait(PATIENCE)
            return super().predict(images, asked, neighbors, timer)

    async def run() -> None:
        stepping = Stepping()
        batcher = Batcher(stepping, max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        stepping.gate.clear()
        costly = asyncio.create_task(batcher.submit(*image(2), Overrides(k="all")))
        assert await asyncio.to_thread(stepping.entered.wait, PATIENCE)
        usual = await queued(batcher, image(3), image(BAD))
        also = asyncio.create_task(batcher.submit(*image(4), Overrides(k="all")))
        await asyncio.sleep(0)
        stepping.gate.set()
        assert said((await usual[0]).answers) == [3]
        assert said((await usual[1]).answers) == ["a bad image"]
        assert said((await costly).answers) == [2]
        assert said((await also).answers) == [4]
        assert stepping.calls == [[3, BAD], [3], [BAD], [2], [4]]
        assert batcher.computing_s == 0
        await batcher.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_what_is_half_done_when_its_client_leaves_is_not_finished() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        large = asyncio.create_task(batcher.submit(*image(*[2] * 12)))
        assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
        large.cancel()
        await asyncio.wait((large,))
        assert batcher.waiting == 0
        scripted.gate.set()
        assert said((await batcher.submit(*image(3))).answers) == [3]

    assert scenario(body).calls == [[2] * 4, [3]]


def test_a_request_whose_client_left_costs_nothing() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        left, stays = await queued(batcher, image(2), image(3))
        left.cancel()
        scripted.gate.set()
        assert said((await stays).answers) == [3]
        assert left.cancelled()
        await first

    assert scenario(body).calls == [[1], [3]]


def test_a_client_that_leaves_while_its_batch_is_computed_harms_no_one() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        scripted.gate.set()
        assert said((await batcher.submit(*image(2))).answers) == [2]

    scenario(body)


def test_what_still_waits_at_its_deadline_costs_nothing() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        late, later = Timing(), Timing()
        soon = asyncio.create_task(batcher.submit(*image(2), deadline=time.monotonic() + 0.01, timing=late))
        in_time = asyncio.create_task(batcher.submit(*image(3), deadline=time.monotonic() + PATIENCE, timing=later))
        await asyncio.sleep(0.02)
        scripted.gate.set()
        with pytest.raises(TimeoutError):
            await soon
        assert said((await in_time).answers) == [3]
        assert (late.is_computed, later.is_computed) == (False, True)
        assert later.queue >= 0.02
        await first

    assert scenario(body).calls == [[1], [3]]


def test_what_is_left_waiting_is_known() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        waiting = await queued(batcher, image(2, 3, 4), image(5, 6))
        assert batcher.waiting == 5
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting == 2
        assert batcher.oldest_s >= 0.01
        scripted.gate.set()
        await asyncio.gather(first, waiting[1])
        assert (batcher.waiting, batcher.oldest_s) == (0, 0.0)

    scenario(body)

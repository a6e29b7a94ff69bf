"""The batcher with a predictor whose every call is scripted."""

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from secondlook.model.answering.predictor import NO_OVERRIDES, Answer, Overrides, Parameters, Predictor
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.errors import JournalError, ParameterError
from secondlook.service.batching.batcher import Batcher
from secondlook.service.batching.turns import Timing
from secondlook.service.errors import SizeChangedError, UnavailableError

BAD = 255
MOST = 2000
"""The largest k that the scripted store serves."""
PATIENCE = 10.0


class DeadlyError(BaseException):
    """What no code expects of a predictor."""


class Scripted:
    """Says of each image its first byte; one of 255 breaks the call that it is in. Waits while ``gate`` is shut."""

    def __init__(self, name: str = "first", size: tuple[int, int] = (2, 2)) -> None:
        self.name = name
        self.bundle = SimpleNamespace(engine=SimpleNamespace(size=size))
        self.calls: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.dies = False
        self.nice = 0

    def parameters(self, overrides: Overrides = NO_OVERRIDES) -> Parameters:
        theta, lam, k = overrides.theta, overrides.lam, overrides.k
        if isinstance(k, int) and k > MOST:
            raise ParameterError(f"k must be at most {MOST}, not {k}")
        return Parameters(theta or 1.0, 0.5 if lam is None else lam, None if k == "all" else k or 1)

    def predict(
        self,
        images: NDArray[np.uint8],
        asked: Sequence[Parameters],
        neighbors: int = 0,
        timer: StageTimer | None = None,
    ) -> list[Answer]:
        assert len(images) == len(asked)
        self.calls.append([int(image[0, 0, 0]) for image in images])
        self.nice = os.getpriority(os.PRIO_PROCESS, 0)
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.dies:
            raise DeadlyError
        if (images == BAD).any():
            raise RuntimeError("a bad image")
        return [self._answer(image, parameters, neighbors) for image, parameters in zip(images, asked, strict=True)]

    def _answer(self, image: NDArray[np.uint8], parameters: Parameters, neighbors: int) -> Answer:
        said = np.array([image[0, 0, 0], parameters.lam], np.float32)
        ids = np.arange(neighbors)
        near, weights = ids.astype(np.float32), ids.astype(np.float64)
        return Answer(said, said, said, 0.0, None, ids, ids, near, weights, said, said)


def image(*values: int, side: int = 2) -> NDArray[np.uint8]:
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


def said(answers: Sequence[Answer | Exception]) -> list[int | str]:
    return [str(answer) if isinstance(answer, Exception) else int(answer.mixed[0]) for answer in answers]


def scenario(body: Callable[[Batcher, Scripted], Coroutine[Any, Any, None]], max_batch: int = 4) -> Scripted:
    """Run a scenario with a batcher, which is closed after it."""
    scripted = Scripted()

    async def run() -> None:
        batcher = Batcher(scripted, max_batch=max_batch)  # type: ignore[arg-type]
        batcher.start()
        try:
            await asyncio.wait_for(body(batcher, scripted), PATIENCE)
        finally:
            scripted.gate.set()
            await batcher.close()

    asyncio.run(run())
    return scripted


async def busy(batcher: Batcher, scripted: Scripted) -> "asyncio.Task[Any]":
    """Shut the gate and bring one request (of value 1) to it."""
    scripted.gate.clear()
    scripted.entered.clear()
    task = asyncio.create_task(batcher.submit(image(1)))
    assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
    return task


async def queued(batcher: Batcher, *requests: NDArray[np.uint8]) -> "list[asyncio.Task[Any]]":
    tasks = [asyncio.create_task(batcher.submit(request)) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_requests_gather_while_the_thread_is_busy() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2), image(3, 4), image(5, 6))
        scripted.gate.set()
        replies = await asyncio.gather(first, *others)
        assert [said(reply.answers) for reply in replies] == [[1], [2], [3, 4], [5, 6]]

    # The fourth request would make the second batch five images: what fits into one is not divided.
    assert scenario(body).calls == [[1], [2, 3, 4], [5, 6]]


def test_the_pixels_of_a_request_that_is_alone_in_its_batch_are_not_copied() -> None:
    seen: list[NDArray[np.uint8]] = []

    class Keeping(Scripted):
        def predict(self, images: Any, *args: Any, **options: Any) -> list[Answer]:
            seen.append(images)
            return super().predict(images, *args, **options)

    async def run() -> None:
        batcher = Batcher(Keeping(), max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        few, many = image(1, 2), image(*range(6))
        await batcher.submit(few)
        await batcher.submit(many)
        assert [len(images) for images in seen] == [2, 4, 2]
        assert np.shares_memory(seen[0], few)
        assert all(np.shares_memory(images, many) for images in seen[1:])
        await batcher.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


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
                await batcher.submit(image(9))

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
        costly = [asyncio.create_task(batcher.submit(image(*[2] * 8), Overrides(k="all"))) for _ in range(2)]
        await asyncio.sleep(0.06)
        assert said((await batcher.submit(image(*[3] * 4))).answers) == [3] * 4
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
        costly = asyncio.create_task(batcher.submit(image(2), Overrides(k="all")))
        assert await asyncio.to_thread(stepping.entered.wait, PATIENCE)
        usual = await queued(batcher, image(3), image(BAD))
        also = asyncio.create_task(batcher.submit(image(4), Overrides(k="all")))
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
        large = asyncio.create_task(batcher.submit(image(*[2] * 12)))
        assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
        large.cancel()
        await asyncio.wait((large,))
        assert batcher.waiting == 0
        scripted.gate.set()
        assert said((await batcher.submit(image(3))).answers) == [3]

    assert scenario(body).calls == [[2] * 4, [3]]


def test_overrides_and_neighbours_are_each_requests_own() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        few = asyncio.create_task(batcher.submit(image(2), Overrides(lam=0.25), 1))
        many = asyncio.create_task(batcher.submit(image(3), Overrides(lam=0.75), 3))
        await asyncio.sleep(0)
        scripted.gate.set()
        await first
        for task, lam, count in ((few, 0.25, 1), (many, 0.75, 3)):
            reply = await task
            assert reply.parameters.lam == lam
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
        assert said((await batcher.submit(image(4))).answers) == [4]

    # Once together, once each alone, and no more.
    assert scenario(body).calls == [[1], [2, BAD, 3], [2], [BAD], [3], [4]]


def test_a_k_that_the_store_cannot_serve_fails_its_request_alone() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        bad = asyncio.create_task(batcher.submit(image(2), Overrides(k=MOST + 1)))
        good = asyncio.create_task(batcher.submit(image(3)))
        await asyncio.sleep(0)
        scripted.gate.set()
        with pytest.raises(ParameterError, match="k must be"):
            await bad
        assert said((await good).answers) == [3]
        await first

    assert scenario(body).calls == [[1], [3]]


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
        assert said((await batcher.submit(image(2))).answers) == [2]

    scenario(body)


def test_what_still_waits_at_its_deadline_costs_nothing() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        late, later = Timing(), Timing()
        soon = asyncio.create_task(batcher.submit(image(2), deadline=time.monotonic() + 0.01, timing=late))
        in_time = asyncio.create_task(batcher.submit(image(3), deadline=time.monotonic() + PATIENCE, timing=later))
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


def test_each_request_is_answered_by_one_generation() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        second = Scripted("second")
        scripted.gate.clear()
        long = asyncio.create_task(batcher.submit(image(1, 2, 3, 4, 5, 6)))
        assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
        batcher.predictor = second  # type: ignore[assignment]
        later = (await queued(batcher, image(7)))[0]
        scripted.gate.set()
        assert (await long).predictor.name == "first"
        assert (await later).predictor.name == "second"
        assert second.calls == [[7]]

    assert scenario(body).calls == [[1, 2, 3, 4], [5, 6]]


def test_images_decoded_for_another_size_are_refused() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2), image(3, side=5))
        batcher.predictor = Scripted("second", (5, 5))  # type: ignore[assignment]
        scripted.gate.set()
        await first
        with pytest.raises(SizeChangedError):
            await others[0]
        assert said((await others[1]).answers) == [3]

    scenario(body)


def test_a_replaced_predictor_is_let_go_after_its_last_batch() -> None:
    async def run() -> None:
        old = Scripted()
        batcher = Batcher(old, max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        await batcher.submit(image(1))
        gone = weakref.ref(old)
        batcher.predictor = Scripted("second")  # type: ignore[assignment]
        del old
        for _ in range(100):
            gc.collect()
            if gone() is None:
                break
            await asyncio.sleep(0.01)
        assert gone() is None
        await batcher.close()

    asyncio.run(run())


def test_when_the_thread_dies_all_waiters_are_told_and_it_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        assert batcher.is_running
        first = await busy(batcher, scripted)
        waiting = await queued(batcher, image(2))
        scripted.dies = True
        scripted.gate.set()
        for task in (first, *waiting):
            with pytest.raises(UnavailableError):
                await task
        assert not batcher.is_running
        assert batcher.computing_s == 0
        with pytest.raises(UnavailableError):
            await batcher.submit(image(3))
        scripted.dies = False
        while not batcher.is_running:
            await asyncio.sleep(0.01)
        assert said((await batcher.submit(image(4))).answers) == [4]
        assert batcher.restarts == 1

    assert scenario(body).calls == [[1], [4]]
    assert "the compute thread died" in caplog.text
    assert "no answers are computed" in caplog.text


def test_no_batch_waits_for_a_busy_event_loop() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        others = await queued(batcher, image(2, 3, 4, 5), image(6))
        scripted.gate.set()
        until = time.monotonic() + PATIENCE
        while len(scripted.calls) < 3:  # as long as this runs, the loop does nothing else
            assert time.monotonic() < until
            time.sleep(0.001)
        await asyncio.gather(first, *others)

    assert scenario(body).calls == [[1], [6], [2, 3, 4, 5]]


def test_a_batch_that_cannot_be_put_together_fails_alone() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        first = await busy(batcher, scripted)
        waiting = await queued(batcher, image(2), np.zeros((1, 2, 2, 4), np.uint8))  # of other channels
        scripted.gate.set()
        for task in waiting:
            with pytest.raises(ValueError, match="dimensions"):
                await task
        assert said((await batcher.submit(image(3))).answers) == [3]
        assert (batcher.restarts, batcher.is_running) == (0, True)
        await first

    scenario(body)


def test_closing_tells_those_who_wait() -> None:
    async def run() -> None:
        scripted = Scripted()
        batcher = Batcher(scripted, max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        first = await busy(batcher, scripted)
        waiting = (await queued(batcher, image(2)))[0]
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(UnavailableError):
            await first
        with pytest.raises(UnavailableError):
            await waiting
        scripted.gate.set()
        await closing

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are the process's")
def test_the_event_loop_goes_before_what_computes() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        await (await queued(batcher, image(1)))[0]
        assert scripted.nice > os.getpriority(os.PRIO_PROCESS, 0)

    scenario(body)


def test_before_each_batch_the_thread_that_computes_asks_for_news() -> None:
    async def body(batcher: Batcher, first: Scripted) -> None:
        threads: set[int] = set()
        second = Scripted()

        def renew(seen: Predictor, is_asked: bool) -> Predictor:
            threads.add(threading.get_ident())
            return cast(Predictor, second)

        batcher.renew = renew
        assert (await batcher.submit(image(1))).predictor is cast(Predictor, second)
        batcher.predictor = cast(Predictor, first)
        await batcher.renewed()
        assert batcher.predictor is cast(Predictor, second)
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    scenario(body)


def test_what_goes_wrong_with_news_is_told_to_those_who_ask_for_it_and_stops_no_answer() -> None:
    async def body(batcher: Batcher, scripted: Scripted) -> None:
        def renew(seen: Predictor, is_asked: bool) -> Predictor:
            raise JournalError("taught.sqlite is gone")

        batcher.renew = renew
        with pytest.raises(JournalError, match="gone"):
            await batcher.renewed()
        assert said((await batcher.submit(image(1))).answers) == [1]

    scenario(body)


def test_a_switch_while_news_are_read_is_not_undone() -> None:
    async def body(batcher: Batcher, first: Scripted) -> None:
        switched, newest = Scripted(), Scripted()

        def renew(seen: Predictor, is_asked: bool) -> Predictor:
            if seen is cast(Predictor, first):
                batcher.predictor = cast(Predictor, switched)
                return cast(Predictor, Scripted())
            return cast(Predictor, newest)

        batcher.renew = renew
        await batcher.renewed()
        assert batcher.predictor is cast(Predictor, newest)

    scenario(body)

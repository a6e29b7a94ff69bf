"""The batcher and its thread: begun, renewed, dying, closed."""

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from typing import cast

import pytest

from secondlook.model.answering.predictor import Predictor
from secondlook.model.errors import JournalError
from secondlook.service.batching.batcher import Batcher
from secondlook.service.errors import UnavailableError
from tests.batcher_for_tests import PATIENCE, Scripted, busy, image, queued, said, scenario


def test_a_replaced_predictor_is_let_go_after_its_last_batch() -> None:
    async def run() -> None:
        old = Scripted()
        batcher = Batcher(old, max_batch=4)  # type: ignore[arg-type]
        batcher.start()
        await batcher.submit(*image(1))
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
            await batcher.submit(*image(3))
        scripted.dies = False
        while not batcher.is_running:
            await asyncio.sleep(0.01)
        assert said((await batcher.submit(*image(4))).answers) == [4]
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
        assert (await batcher.submit(*image(1))).predictor is cast(Predictor, second)
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
        assert said((await batcher.submit(*image(1))).answers) == [1]

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

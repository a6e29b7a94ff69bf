"""Who is taken to hang, by a clock that is set."""

import asyncio
import os
import time

import pytest

from secondlook.service.processes import pulse
from secondlook.service.processes.pulse import ALL_SILENT_S, BEAT, BEAT_S, SILENT_S, Pulse, Watched


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pulse.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def looked_for(clock: Clock, watched: Watched, seconds: float, *beating: int, missing: bool = False) -> list[int]:
    """Who is silent in the end, if all is looked through as often as it should be."""
    silent: list[int] = []
    for _ in range(round(seconds / BEAT_S)):
        clock.now += BEAT_S
        for slot in beating:
            watched.hear(slot)
        silent = watched.silent(is_one_missing=missing)
    return silent


def test_one_that_is_silent_hangs_and_those_that_beat_do_not(clock: Clock) -> None:
    watched = Watched()
    for slot in range(3):
        watched.hear(slot)
    assert looked_for(clock, watched, SILENT_S - BEAT_S, 0, 2) == []
    assert looked_for(clock, watched, 2 * BEAT_S, 0, 2) == [1]
    watched.forget(1)
    assert looked_for(clock, watched, 2 * SILENT_S, 0, 2) == []


def test_one_that_never_was_heard_of_is_not_waited_for(clock: Clock) -> None:
    assert looked_for(clock, Watched(), 2 * SILENT_S) == []


def test_after_the_machine_slept_all_have_their_time_again(clock: Clock) -> None:
    watched = Watched()
    watched.hear(0)
    clock.now += 3600
    assert watched.silent(is_one_missing=False) == []
    assert looked_for(clock, watched, SILENT_S - BEAT_S) == []
    assert looked_for(clock, watched, 2 * BEAT_S) == [0]


def test_several_are_ended_one_after_the_other(clock: Clock) -> None:
    watched = Watched()
    for slot in (1, 0):
        watched.hear(slot)
        clock.now += 0.1
    assert looked_for(clock, watched, SILENT_S + BEAT_S) == [1]
    watched.forget(1)
    assert looked_for(clock, watched, BEAT_S, missing=True) == []  # until that one answers again
    assert looked_for(clock, watched, BEAT_S) == [0]
    assert looked_for(clock, watched, ALL_SILENT_S, missing=True) == [0]  # or for ever


def test_a_pulse_stops_with_the_loop_and_with_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    heard, told = os.pipe()
    os.set_blocking(heard, False)

    def beats() -> int:
        time.sleep(0.2)
        try:
            return os.read(heard, 1 << 16).count(BEAT)
        except BlockingIOError:
            return 0

    beating = Pulse(told)
    assert beats() > 2  # while it starts, no loop runs
    hung = False

    async def run() -> None:
        nonlocal hung
        beating.follow(lambda: hung)
        await asyncio.to_thread(beats)
        assert await asyncio.to_thread(beats) > 2
        beats()  # the loop does not turn meanwhile
        assert beats() == 0
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(beats) > 2
        hung = True
        await asyncio.to_thread(beats)
        assert await asyncio.to_thread(beats) == 0

    asyncio.run(run())
    os.close(heard)  # and so its thread ends

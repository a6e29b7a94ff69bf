"""Processes that decode: how they end, and what then becomes of images."""

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.errors import ImageError
from secondlook.service.errors import UnavailableError
from tests.decoders_for_tests import (
    LARGE,
    LARGER,
    LIMITS,
    PATIENCE_S,
    SMALL,
    TARGET,
    Running,
    is_gone,
    run,
    running,
    until,
)


def test_what_nobody_waits_for_is_ended() -> None:
    async def test(it: Running) -> None:
        decoding = asyncio.create_task(it.decode(LARGER))
        pid = await it.busy()
        decoding.cancel()
        await until(lambda: is_gone(pid))
        assert it.ended("abandoned") == 1
        assert (await it.decode(SMALL)).any()

    run(test)


def test_what_is_not_decoded_in_time_is_given_up() -> None:
    async def test(it: Running) -> None:
        out = np.zeros((*TARGET.size, 3), np.uint8)
        soon = time.monotonic() + 0.1
        found = await asyncio.gather(
            *(it.decoders.decode(LARGER, out, TARGET, LIMITS, it.decoders.spending(1), soon) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(error) for error in found] == [TimeoutError] * 3
        assert it.ended("deadline") >= 1

    run(test)


def test_a_usual_image_is_not_called_slow_where_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.service.decoding.decoders.LONG_TURN_S", 0.0)

    async def test(it: Running) -> None:
        out = np.zeros((*TARGET.size, 3), np.uint8)
        with pytest.raises(TimeoutError):
            await it.decoders.decode(LARGER, out, TARGET, LIMITS, it.decoders.spending(1), time.monotonic() + 0.3)

    run(test)


def test_an_image_that_ends_its_process_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test(it: Running) -> None:
        decoding = asyncio.create_task(it.decode(LARGER))
        other = asyncio.create_task(it.decode(LARGE))
        killed: set[int] = set()
        while len(killed) < 2:  # the first time may be somebody else's fault
            await asyncio.sleep(0.001)
            for process, work in it.decoders._running.items():
                if work.job.file is LARGER and process.pid and process.pid not in killed:
                    killed.add(process.pid)
                    os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(ImageError, match="makes its decoder fail"):
            await decoding
        assert (await other).any()
        assert it.ended("crashed") == 2
        assert (await it.decode(SMALL)).any()

    run(test)
    assert "ended while it decoded" in caplog.text


def test_a_process_that_died_while_it_was_idle_costs_no_image() -> None:
    async def test(it: Running) -> None:
        await it.decode(SMALL)
        await until(lambda: all(process.pid for process in it.decoders._processes))
        for process in it.decoders._processes:
            os.kill(process.pid, signal.SIGKILL)
        found = await asyncio.gather(*(it.decode(SMALL) for _ in range(8)))
        assert all(pixels.any() for pixels in found)

    run(test)


def test_all_of_it_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.service.decoding.nursery.RESTART_S", 0.1)

    async def test(it: Running) -> None:
        decoding = asyncio.create_task(it.decode(LARGER))
        pid = await it.busy()
        popen = it.decoders._nursery._popen
        assert popen is not None
        popen.kill()
        with pytest.raises(UnavailableError):
            await decoding
        assert not it.decoders.is_running
        with pytest.raises(UnavailableError):
            await it.decode(SMALL)
        await until(lambda: it.decoders.is_running)
        assert (await it.decode(SMALL)).any()
        await until(lambda: is_gone(pid))

    run(test)


def test_a_decoder_has_what_it_needs_and_no_more() -> None:
    async def test(it: Running) -> None:
        decoding = asyncio.create_task(it.decode(LARGER))
        pid = await it.busy()
        # Devices in place of the standard ones, its socket, and what is shared (mapped, once more).
        assert len(os.listdir(f"/proc/{pid}/fd")) <= 6
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "PIL" in loaded
        assert not any(name in loaded for name in ("faiss", "onnxruntime", "torch", "pydantic"))
        await decoding

    run(test)


def test_it_ends_with_all_its_processes() -> None:
    async def main() -> list[int]:
        async with running() as it:
            decoding = asyncio.create_task(it.decode(LARGER))
            await it.busy()
            await until(lambda: all(process.pid for process in it.decoders._processes))
            popen = it.decoders._nursery._popen
            assert popen is not None
            pids = [popen.pid, *(process.pid for process in it.decoders._processes)]
        with pytest.raises(UnavailableError):
            await decoding
        return pids

    for pid in asyncio.run(main()):
        deadline = time.monotonic() + PATIENCE_S
        while not is_gone(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)

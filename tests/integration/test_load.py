"""Load on a small server that stalls and fails as told."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from benchmarks.load import closed_loop, open_loop

STALL = 0.3


@asynccontextmanager
async def server(status_of: Callable[[int], int]) -> AsyncIterator[str]:
    """Answers each request, counted from 0, with a status."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                assert await reader.readexactly(length) in (b"one", b"other")
                asked += 1
                writer.write(b"HTTP/1.1 %d \r\ncontent-length: 2\r\n\r\n{}" % status_of(asked - 1))
        except asyncio.IncompleteReadError:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1")
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def test_an_open_loop_counts_from_when_requests_were_due() -> None:
    """The sender is held up together with the server: what was due meanwhile is sent late, but waits from then on."""

    def stall_once(number: int) -> int:
        if number == 0:
            time.sleep(STALL)
        return 200

    async def load() -> list[float]:
        async with server(stall_once) as url:
            loaded = await open_loop(url, [b"one", b"other"], 200.0, 2 * STALL, seed=0)
        assert loaded.failures == 0
        return loaded.waits

    waits = asyncio.run(load())
    assert 60 < len(waits) < 200
    # About 200 x 0.2 were due in the first two thirds of the stall; counted from when they were sent, hardly one waits.
    assert sum(wait > STALL / 3 for wait in waits) > 20


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_closed_loop_counts_failures_apart(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def load() -> tuple[int, int]:
        async with server(lambda number: 503 if number % 3 == 0 else 200) as url:
            loaded = await closed_loop(url, [b"one"], 2, warm_up=0.01, seconds=0.2)
        assert loaded.total >= len(loaded.waits) + loaded.failures
        return len(loaded.waits), loaded.failures

    with asyncio.Runner(loop_factory=loop) as runner:
        answered, failures = runner.run(load())
    assert failures > 0
    assert abs(answered - 2 * failures) <= 2


def test_connections_that_a_server_closes_are_opened_anew() -> None:
    """Some after an answer, as it says there, and some before one: that counts as a failure."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(b"one"))
                asked += 1
                if asked % 5 == 0:
                    break
                closes = b"Connection: close\r\n" if asked % 3 == 0 else b""
                writer.write(b"HTTP/1.1 200 \r\nContent-")  # in two pieces
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(b"Length: 2\r\n%s\r\n{}" % closes)
                if closes:
                    break
        writer.close()

    async def load() -> tuple[int, int]:
        listening = await asyncio.start_server(answer, "127.0.0.1")
        async with listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            loaded = await closed_loop(url, [b"one"], 3, warm_up=0.01, seconds=0.3)
        return len(loaded.waits), loaded.failures

    answered, failures = asyncio.run(load())
    assert answered > 20
    assert answered / 5 < failures < answered / 3


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    loaded = asyncio.run(closed_loop(url, [b"one"], 2, warm_up=0.01, seconds=0.05))
    assert not loaded.waits
    assert loaded.failures >= 4

"""Load on a small server that stalls and fails as told."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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


def test_a_closed_loop_counts_failures_apart() -> None:
    async def load() -> tuple[int, int]:
        async with server(lambda number: 503 if number % 3 == 0 else 200) as url:
            loaded = await closed_loop(url, [b"one"], 2, warm_up=0.01, seconds=0.2)
        return len(loaded.waits), loaded.failures

    answered, failures = asyncio.run(load())
    assert failures > 0
    assert abs(answered - 2 * failures) <= 2

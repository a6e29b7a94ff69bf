"""Twice what the server can bear: it serves what it can, in time, and tells the rest to come again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from benchmarks.client import Client, Reply, percentile
from tests.e2e.conftest import Server
from tests.images_for_tests import COLOURS, make_image

IMAGES = 16
"""In a request: so the load costs the server more than the one who makes it."""
DEADLINE_S = 5.0
BUSY = 6
"""Connections that keep the server busy without crowding it."""
PACING_S = 0.005

BOUNDARY = "an-image-ends-here"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form() -> bytes:
    """A request's body of IMAGES images."""
    opening = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    pngs = (make_image(list(COLOURS)[i % 3], seed=i) for i in range(IMAGES))
    return b"".join(opening + png + b"\r\n" for png in pngs) + f"--{BOUNDARY}--\r\n".encode()


async def ask(client: Client, body: bytes) -> Reply:
    return await client.request("POST", "/v1/predict", body, HEADERS)


async def best_rate(url: str, body: bytes, seconds: float) -> float:
    """Requests a second with a few connections that ask one after another."""
    ending = time.monotonic() + seconds

    async def asking() -> int:
        done = 0
        async with Client(url) as client:
            while time.monotonic() < ending:
                assert (await ask(client, body)).status == 200
                done += 1
        return done

    return sum(await asyncio.gather(*(asking() for _ in range(BUSY)))) / seconds


async def offer(url: str, body: bytes, rate: float, seconds: float) -> list[Reply]:
    """Requests at that rate, whether or not those before are answered; each has to be answered."""
    idle: list[Client] = []
    running: list[asyncio.Task[None]] = []
    replies: list[Reply] = []

    async def one() -> None:
        client = idle.pop() if idle else Client(url)
        replies.append(await ask(client, body))
        idle.append(client)

    started, sent = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        while sent < rate * now:
            running.append(asyncio.create_task(one()))
            sent += 1
        await asyncio.sleep(PACING_S)
    await asyncio.gather(*running)
    for client in idle:
        await client.__aexit__()
    return replies


@pytest.mark.parametrize("seconds", [5.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_overload_is_refused_at_the_door_and_the_rest_is_served(
    serve: Callable[..., Server], figures: Callable[[str], None], seconds: float
) -> None:
    server = serve(request_timeout_s=DEADLINE_S)
    body = form()

    async def measure() -> tuple[float, float, list[Reply]]:
        await best_rate(server.url, body, 1)
        before = await best_rate(server.url, body, max(2.0, seconds / 6))
        replies = await offer(server.url, body, 2 * before, seconds)
        return before, await best_rate(server.url, body, max(2.0, seconds / 6)), replies

    before, after, replies = asyncio.run(measure())
    best = (before + after) / 2  # of a machine that may be busier at one time than at another
    statuses = Counter(reply.status for reply in replies)
    served = [reply.seconds for reply in replies if reply.status == 200]
    ended = max(reply.started + reply.seconds for reply in replies)
    rate = len(served) / (ended - min(reply.started for reply in replies))
    refused = [reply for reply in replies if reply.status == 429]
    figures(
        f"{seconds:g} s at {len(replies) / seconds:.0f} requests of {IMAGES} images a second, best {before:.1f} before "
        f"and {after:.1f} after: {rate:.1f} served ({rate / best:.2f} of the best), p50 "
        f"{percentile(served, 0.5):.0f} ms, p99 {percentile(served, 0.99):.0f} ms; {len(refused):,} refused within p99 "
        f"{percentile([reply.seconds for reply in refused], 0.99):.0f} ms"
    )
    assert statuses.keys() == {200, 429}, statuses
    assert {reply.json()["type"] for reply in refused} == {"urn:secondlook:problem:queue-full"}
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    if seconds >= 60:  # `make soak`, on a machine with nothing else to do
        assert rate > 0.9 * best
        assert percentile(served, 0.99) < 1000 * DEADLINE_S

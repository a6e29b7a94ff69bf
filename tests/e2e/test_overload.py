"""Twice what the server can bear: it serves what it can, in time, and tells the rest to come again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.e2e.conftest import Server
from tests.e2e.load import Client, Reply, percentile
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
    """Requests at that rate, whether or not those before are answered."""
    idle: list[Client] = []
    running: set[asyncio.Task[None]] = set()
    replies: list[Reply] = []

    async def one() -> None:
        client = idle.pop() if idle else Client(url)
        replies.append(await ask(client, body))
        idle.append(client)

    started, sent = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        while sent < rate * now:
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
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

    async def measure() -> tuple[float, list[Reply]]:
        await best_rate(server.url, body, 1)
        best = await best_rate(server.url, body, max(2.0, seconds / 6))
        return best, await offer(server.url, body, 2 * best, seconds)

    best, replies = asyncio.run(measure())
    statuses = Counter(reply.status for reply in replies)
    served = [reply.seconds for reply in replies if reply.status == 200]
    rate = len(served) / seconds
    refused = [reply for reply in replies if reply.status == 429]
    figures(
        f"{seconds:g} s at {len(replies) / seconds:.0f} requests of {IMAGES} images a second, best {best:.0f}: "
        f"{rate:.0f} served ({rate / best:.2f} of the best), p50 {percentile(served, 0.5):.0f} ms, "
        f"p99 {percentile(served, 0.99):.0f} ms; {len(refused):,} refused within p99 "
        f"{percentile([reply.seconds for reply in refused], 0.99):.0f} ms"
    )
    assert statuses.keys() == {200, 429}, statuses
    assert {reply.json()["type"] for reply in refused} == {"urn:secondlook:problem:queue-full"}
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    if seconds >= 60:  # `make soak`, on a machine with nothing else to do
        assert rate > 0.9 * best
        assert percentile(served, 0.99) < 1000 * DEADLINE_S

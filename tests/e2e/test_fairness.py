"""Someone who asks about one image beside others who ask about many, all entries voting."""

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest

from benchmarks.client import Client
from tests.e2e.conftest import Server
from tests.e2e.test_overload import BOUNDARY, HEADERS
from tests.images_for_tests import COLOURS, make_image

Serve = Callable[..., Server]
IMAGES = 64
OTHERS = 4


def form() -> bytes:
    opening = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    pngs = (make_image(list(COLOURS)[i % 3], seed=i) for i in range(IMAGES))
    return b"".join(opening + png + b"\r\n" for png in pngs) + f"--{BOUNDARY}--\r\n".encode()


async def measure(url: str, query: str, others: int, alone: int) -> tuple[list[float], list[float]]:
    """Seconds that one image and that many images took, side by side."""
    body, one, many, over = form(), list[float](), list[float](), False

    async def many_images() -> None:
        async with Client(url) as client:
            while not over:
                reply = await client.request("POST", f"/v1/predict?{query}", body, HEADERS)
                assert reply.status == 200, reply.body
                many.append(reply.seconds)

    async with Client(url) as client, asyncio.TaskGroup() as crowd:
        for _ in range(others):
            crowd.create_task(many_images())
        await asyncio.sleep(0.5)
        for _ in range(alone):
            reply = await client.predict(make_image("red"))
            assert reply.status == 200, reply.body
            one.append(reply.seconds)
            await asyncio.sleep(0.02)
        over = True
    return one, many


@pytest.mark.parametrize(
    ("others", "alone"), [(2, 20), pytest.param(OTHERS, 100, marks=pytest.mark.soak)], ids=["few", "many"]
)
@pytest.mark.parametrize("query", ["k=all", "votes=1000&top=1000&neighbors=50"])
def test_one_image_does_not_wait_for_all_of_the_others(
    serve: Serve, figures: Callable[[str], None], query: str, others: int, alone: int
) -> None:
    server = serve()
    asyncio.run(measure(server.url, "", 1, 1))  # warm
    by_itself, _ = asyncio.run(measure(server.url, query, 0, alone))
    began = time.monotonic()
    one, many = asyncio.run(measure(server.url, query, others, alone))
    figures(
        f"one image beside {others} clients with {IMAGES} images and {query}: p50 {statistics.median(one):.3f} s, "
        f"worst {max(one):.3f} s (by itself {statistics.median(by_itself):.3f} s); theirs p50 "
        f"{statistics.median(many):.2f} s, {len(many) * IMAGES / (time.monotonic() - began):.0f} images/s"
    )
    assert statistics.median(one) < statistics.median(many) / 2

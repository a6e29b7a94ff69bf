"""Decoders that run, without a server."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.images import Geometry, Limits
from secondlook.service.decoding.decoders import Decoders
from secondlook.service.decoding.jobs import Spending
from secondlook.service.metrics import Metrics
from tests.hostile_images import png
from tests.images_for_tests import make_image

LIMITS = Limits(64_000_000)
PATIENCE_S = 60.0
TARGET = Geometry.covering(32, 32)
SMALL = make_image("red")


def plain(side: int) -> bytes:
    return png(np.full((side, side, 3), 99, np.uint8))


def rle(side: int) -> bytes:
    """A run-length coded BMP, each pixel a run."""
    row = b"\1\2" * side + b"\0\0"
    head = struct.pack("<2sIHHI", b"BM", 1078 + side * len(row), 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, side * len(row), 0, 0, 256, 0)
    return head + info + bytes(1024) + row * side


LARGE, LARGER = plain(4000), plain(8000)
"""A fifth of a second of the processor, and one."""


class Running:
    """Decoders, and what they have counted."""

    def __init__(self, **given: Any) -> None:
        self.metrics = Metrics()
        options: dict[str, Any] = {"places": 2, "max_bytes": 8 << 30, "max_seconds": 60.0, "room": 1 << 20}
        self.decoders = Decoders(**options | given, metrics=self.metrics)

    async def decode(
        self, file: bytes, spending: Spending | None = None, limits: Limits = LIMITS, geometry: Geometry = TARGET
    ) -> NDArray[np.uint8]:
        out = np.zeros((*geometry.size, 3), np.uint8)
        spending = spending or self.decoders.spending(1)
        await self.decoders.decode(file, out, geometry, limits, spending, time.monotonic() + PATIENCE_S)
        return out

    def ended(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("secondlook_decodings_ended_total", {"reason": reason}) or 0.0

    async def busy(self) -> int:
        """The id of a process that decodes a large image."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for process, running in self.decoders._running.items():
                    if running.is_slow and process.used_s() > 0:
                        return process.pid
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(**given: Any) -> AsyncIterator[Running]:
    it = Running(**given)
    await it.decoders.start()
    try:
        async with asyncio.timeout(4 * PATIENCE_S):
            yield it
    finally:
        await it.decoders.close()


def run(test: Callable[[Running], Awaitable[None]], **given: Any) -> None:
    async def main() -> None:
        async with running(**given) as it:
            await test(it)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()

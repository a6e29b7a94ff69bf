"""What decoding in processes costs beside decoding in threads.

Both decode the same files for the same event loop, in turns, as many at once as a server has places: images a second
with 32 that wait and with one alone, and the processor's time for each image. The ratios are what counts: a machine is
not equally fast at all times. Where others use it too, that of the processor's time says more.
"""

from __future__ import annotations

import asyncio
import io
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import uvloop
from PIL import Image

from secondlook.indexer.progress import Progress, silent
from secondlook.model.images import DEFAULT_PIXELS, Geometry, Limits, decode
from secondlook.service.batching.thread import step_back
from secondlook.service.decoding.decoders import Decoders
from secondlook.service.metrics import Metrics

ROUNDS = 5
WAITING = 32
LIMITS = Limits(DEFAULT_PIXELS)


def picture(width: int, height: int, format: str) -> bytes:
    """Make a file with some detail."""
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    waves = 128 + 80 * np.sin(np.arange(width) / 20)[None, :, None]
    buffer = io.BytesIO()
    Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


class Measured(NamedTuple):
    """One turn, in threads or in processes."""

    rate: float
    """Images a second."""
    ms: float
    """The median of what each took."""
    processor_ms: float
    """Of this process and of those that decode, for an image."""


async def measure(
    one: Callable[[], Awaitable[object]], waiting: int, seconds: float, spent: Callable[[], float]
) -> Measured:
    """Decode, with so many that wait, for so long."""
    took: list[float] = []
    began, before = time.perf_counter(), spent()

    async def on_and_on() -> None:
        while (now := time.perf_counter()) < began + seconds:
            await one()
            took.append(time.perf_counter() - now)

    await asyncio.gather(*(on_and_on() for _ in range(waiting)))
    rate, processor = len(took) / (time.perf_counter() - began), spent() - before
    return Measured(rate, 1000 * statistics.median(took), 1000 * processor / len(took))


@dataclass(frozen=True)
class DecodingResult:
    """One kind of file, with so many at once."""

    file: str
    bytes: int
    waiting: int
    threads: Measured
    """The median turn, as for the processes."""
    processes: Measured
    rate_ratio: float
    """Processes over threads, the median of the turns' ratios."""
    processor_ratio: float


def decoding(for_seconds: float = 2.0, progress: Progress = silent) -> list[DecodingResult]:
    """Decode in turns of so many seconds, each kind of file with each number at once."""
    return uvloop.run(_decoding(for_seconds, progress))


async def _decoding(for_seconds: float, progress: Progress) -> list[DecodingResult]:
    places = max(1, min(4, os.cpu_count() or 1))
    pool = ThreadPoolExecutor(places, initializer=step_back)
    decoders = Decoders(places=places, max_bytes=3 << 29, max_seconds=5.0, room=16 << 20, metrics=Metrics())
    await decoders.start()
    loop = asyncio.get_running_loop()
    kinds = {
        "PNG 32 x 32": (picture(32, 32, "PNG"), Geometry.covering(32, 32)),
        "JPEG 500 x 373": (picture(500, 373, "JPEG"), Geometry.covering(224, 224)),
    }

    def spent() -> float:
        processes = [process for process in decoders._processes if process.pid]
        return time.process_time() + sum(process.seconds + process.used_s() for process in processes)

    results: list[DecodingResult] = []
    for name, (file, geometry) in kinds.items():
        in_thread = partial(loop.run_in_executor, pool, decode, file, geometry, LIMITS)
        in_process = partial(decoded, decoders, file, geometry)
        for waiting in (WAITING, 1):
            turns = [
                [await measure(one, waiting, for_seconds, spent) for one in (in_thread, in_process)]
                for _ in range(ROUNDS)
            ]
            threads, processes = (
                Measured(*map(statistics.median, zip(*own, strict=True))) for own in zip(*turns, strict=True)
            )
            rates = statistics.median(turn[1].rate / turn[0].rate for turn in turns)
            costs = statistics.median(turn[1].processor_ms / turn[0].processor_ms for turn in turns)
            results.append(DecodingResult(name, len(file), waiting, threads, processes, rates, costs))
            progress("decoding", len(results), 2 * len(kinds))
    await decoders.close()
    pool.shutdown()
    return results


async def decoded(decoders: Decoders, file: bytes, geometry: Geometry) -> None:
    """Decode in a process, as a server does."""
    out = np.empty((*geometry.size, 3), np.uint8)
    await decoders.decode(file, out, geometry, LIMITS, decoders.spending(1), time.monotonic() + 60)

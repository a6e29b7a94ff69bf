"""A batcher with a predictor whose every call is scripted."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.predictor import NO_OVERRIDES, Answer, Overrides, Parameters
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.errors import ParameterError
from secondlook.model.images import Geometry
from secondlook.service.batching.batcher import Batcher

BAD = 255
MOST = 2000
"""The largest k that the scripted store serves."""
PATIENCE = 10.0
TINY = Geometry.covering(2, 2)


class DeadlyError(BaseException):
    """What no code expects of a predictor."""


class Scripted:
    """Says of each image its first byte; one of 255 breaks the call that it is in. Waits while ``gate`` is shut."""

    def __init__(self, name: str = "first", geometry: Geometry = TINY) -> None:
        self.name = name
        self.bundle = SimpleNamespace(geometry=geometry)
        self.calls: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.dies = False
        self.nice = 0

    def parameters(self, overrides: Overrides = NO_OVERRIDES) -> Parameters:
        theta, lam, k = overrides.theta, overrides.lam, overrides.k
        if isinstance(k, int) and k > MOST:
            raise ParameterError(f"k must be at most {MOST}, not {k}")
        return Parameters(theta or 1.0, 0.5 if lam is None else lam, None if k == "all" else k or 1)

    def predict(
        self,
        images: NDArray[np.uint8],
        asked: Sequence[Parameters],
        neighbors: int = 0,
        timer: StageTimer | None = None,
    ) -> list[Answer]:
        assert len(images) == len(asked)
        self.calls.append([int(image[0, 0, 0]) for image in images])
        self.nice = os.getpriority(os.PRIO_PROCESS, 0)
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.dies:
            raise DeadlyError
        if (images == BAD).any():
            raise RuntimeError("a bad image")
        return [self._answer(image, parameters, neighbors) for image, parameters in zip(images, asked, strict=True)]

    def _answer(self, image: NDArray[np.uint8], parameters: Parameters, neighbors: int) -> Answer:
        said = np.array([image[0, 0, 0], parameters.lam], np.float32)
        ids = np.arange(neighbors)
        near, weights = ids.astype(np.float32), ids.astype(np.float64)
        return Answer(said, said, said, 0.0, None, ids, ids, near, weights, said, said)


def image(*values: int, geometry: Geometry = TINY) -> tuple[NDArray[np.uint8], Geometry]:
    return np.stack([np.full((*geometry.size, 3), value, np.uint8) for value in values]), geometry


def said(answers: Sequence[Answer | Exception]) -> list[int | str]:
    return [str(answer) if isinstance(answer, Exception) else int(answer.mixed[0]) for answer in answers]


def scenario(body: Callable[[Batcher, Scripted], Coroutine[Any, Any, None]], max_batch: int = 4) -> Scripted:
    """Run a scenario with a batcher, which is closed after it."""
    scripted = Scripted()

    async def run() -> None:
        batcher = Batcher(scripted, max_batch=max_batch)  # type: ignore[arg-type]
        batcher.start()
        try:
            await asyncio.wait_for(body(batcher, scripted), PATIENCE)
        finally:
            scripted.gate.set()
            await batcher.close()

    asyncio.run(run())
    return scripted


async def busy(batcher: Batcher, scripted: Scripted) -> "asyncio.Task[Any]":
    """Shut the gate and bring one request (of value 1) to it."""
    scripted.gate.clear()
    scripted.entered.clear()
    task = asyncio.create_task(batcher.submit(*image(1)))
    assert await asyncio.to_thread(scripted.entered.wait, PATIENCE)
    return task


async def queued(batcher: Batcher, *requests: tuple[NDArray[np.uint8], Geometry]) -> "list[asyncio.Task[Any]]":
    tasks = [asyncio.create_task(batcher.submit(*request)) for request in requests]
    await asyncio.sleep(0)
    return tasks

"""The application: parts put together, nothing computed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI

from model.predictor import Predictor
from service import admin, entries, pages, predict, problems, teach
from service.batcher import Batcher
from service.calibrating import keep_calibrated
from service.compute import step_back
from service.door import Door
from service.generations import Generations, open_predictor
from service.guard import Drain, Guard
from service.jobs import Rebuilds
from service.keys import Keys
from service.metrics import Metrics
from service.settings import Settings
from service.state import State
from service.watch import Watch

logger = logging.getLogger(__name__)

DECODERS = 4
"""Images decoded at once by all workers, at most: each may need 200 MB, and libjpeg keeps one core busy."""

PUBLISH_SECONDS = 1.0
"""How old a worker's state may be on a page of metrics that another one writes."""


def create_app(settings: Settings, *, predictor: Predictor | None = None) -> FastAPI:
    """The server's application; it answers with that predictor, or with the active bundle, opened at start.

    Starting it raises BundleError where the active bundle is refused.

    Raises:
        KeysError: the file of keys is wrong.
    """
    app = FastAPI(
        title="secondlook",
        summary="A second opinion on images: a trained network, mixed with a vote of the nearest known images.",
        description=f"Every error is a problem document (RFC 9457).\n\n{problems.table()}",
        version=version("secondlook"),
        responses=problems.EVERYWHERE,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.initial = predictor
    app.state.keys = Keys(settings)
    app.state.metrics = Metrics()
    app.state.drain = Drain()
    app.add_middleware(predict.Direct)
    app.add_middleware(
        Guard,
        max_request_bytes=settings.max_request_bytes,
        body_timeout_s=settings.body_timeout_s,
        body_stall_s=settings.body_stall_s,
        drain=app.state.drain,
    )
    app.add_middleware(Watch, metrics=app.state.metrics)
    problems.install(app)
    app.include_router(predict.router)
    app.include_router(entries.router)
    app.include_router(teach.router)
    app.include_router(admin.router)
    pages.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    metrics: Metrics = app.state.metrics
    door = Door(max_images=settings.max_queue, max_bytes=settings.max_queue_bytes)
    batcher = Batcher(await _initial(app), max_batch=settings.max_batch, metrics=metrics)
    generations = Generations(settings, batcher)
    rebuilds = Rebuilds(generations.root, generations.adopt, settings.hide_paths, metrics)
    cores = os.cpu_count() or 1
    threads = max(1, min(DECODERS, cores) // settings.workers)
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=step_back)
    app.state.running = metrics.running = State(
        settings, door, batcher, generations, rebuilds, decoders, metrics, app.state.drain
    )
    batcher.start()
    tasks = [asyncio.create_task(_publish(metrics), name="publish")] if settings.workers > 1 else []
    if settings.bundles is not None:
        tasks.append(asyncio.create_task(generations.follow(), name="follow"))
        tasks.append(asyncio.create_task(generations.follow_taught(), name="follow taught"))
        tasks.append(asyncio.create_task(keep_calibrated(batcher), name="calibrate"))
    logger.info("generation %s answers", generations.active)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        generations.close()
        await rebuilds.close()
        await batcher.close()
        await asyncio.to_thread(decoders.shutdown, cancel_futures=True)


async def _publish(metrics: Metrics) -> None:
    """Have other workers know this one's state; runs until cancelled."""
    while True:
        metrics.publish()
        await asyncio.sleep(PUBLISH_SECONDS)


async def _initial(app: FastAPI) -> Predictor:
    """The predictor to start with. It is not kept here: once replaced, nothing may hold on to it."""
    given: Predictor | None = app.state.initial
    app.state.initial = None
    if given is not None:
        return given
    return await asyncio.to_thread(open_predictor, app.state.settings)

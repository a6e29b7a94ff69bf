"""The application: parts put together, nothing computed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI

from secondlook.model.answering.predictor import Predictor
from secondlook.service import problems
from secondlook.service.batching.batcher import Batcher
from secondlook.service.decoding.decoders import Decoders
from secondlook.service.generations.calibrating import keep_calibrated
from secondlook.service.generations.jobs import Jobs
from secondlook.service.generations.opening import open_predictor
from secondlook.service.generations.switching import Generations
from secondlook.service.http import parameters
from secondlook.service.http.access_log import AccessLog
from secondlook.service.http.admission import Admission
from secondlook.service.http.auth import require_admin
from secondlook.service.http.keys import Keys
from secondlook.service.http.limits import Drain, RequestLimits
from secondlook.service.http.parameters import only_known
from secondlook.service.metrics import Metrics
from secondlook.service.prefix import Prefix
from secondlook.service.routes import (
    admin,
    audit,
    decide,
    embed,
    entries,
    health,
    map,
    model,
    pages,
    predict,
    search,
    suggest,
    teach,
)
from secondlook.service.settings import Settings
from secondlook.service.state import State

logger = logging.getLogger(__name__)

DECODERS = 4
"""Usual images decoded at once by all workers, at most, and as many that take long."""

PUBLISH_SECONDS = 1.0
"""How old a worker's state may be on a page of metrics that another one writes."""


def create_app(settings: Settings, program: Sequence[str], *, predictor: Predictor | None = None) -> FastAPI:
    """The server's application; it answers with that predictor, or with the active bundle, opened at start.

    ``program`` is the command line that starts ``secondlook``, for rebuilds and other jobs.

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
        openapi_url=None,
        redoc_url=None,
        # It would redirect to wherever the client's Host says.
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.settings, app.state.program = settings, program
    app.state.initial = predictor
    app.state.keys = Keys(settings)
    app.state.metrics = Metrics()
    app.state.drain = Drain()
    app.add_middleware(RequestLimits, settings=settings, drain=app.state.drain)
    app.add_middleware(AccessLog, metrics=app.state.metrics)
    app.add_middleware(Prefix, root_path=settings.root_path)
    problems.install(app)
    for call in (predict, search, embed):
        call.install(app)
    for router in (model.router, entries.router, suggest.router, health.router):
        app.include_router(router, dependencies=[Depends(only_known)])
    for router in (teach.router, decide.router, audit.router, map.router, admin.router):
        app.include_router(router, dependencies=[Depends(require_admin), Depends(only_known)])
    pages.install(app)
    parameters.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    metrics: Metrics = app.state.metrics
    # AnyIO imports its parts when they are first used: no request is to fail of that where open files are few.
    await anyio.to_thread.run_sync(getattr, anyio, "open_file")
    admission = Admission(max_images=settings.max_queue, max_bytes=settings.max_queue_bytes)
    batcher = Batcher(await _initial(app), max_batch=settings.max_batch, metrics=metrics)
    cores = os.cpu_count() or 1
    decoders = Decoders(
        places=max(1, min(DECODERS, cores) // settings.workers),
        max_bytes=settings.decode_bytes,
        max_seconds=settings.max_decode_s,
        room=settings.max_file_bytes,
        metrics=metrics,
    )
    await decoders.start()
    generations = Generations(settings, batcher, decoders.decode_in_thread)
    jobs = Jobs(generations.root, app.state.program, generations.adopt, settings.hide_paths, metrics)
    app.state.running = state = State(
        settings, admission, batcher, generations, jobs, decoders, metrics, app.state.drain
    )
    metrics.read = state.snapshot
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
        state.suggesting.shutdown(wait=False, cancel_futures=True)
        generations.close()
        await jobs.close()
        await batcher.close()
        await decoders.close()


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

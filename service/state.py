"""The parts of a running server that calls share, kept on the app."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from secondlook.model.answering.predictor import Predictor
from secondlook.model.errors import JournalError
from secondlook.service.batching.batcher import Batcher
from secondlook.service.decoding.decoders import Decoders
from secondlook.service.generations.calibrating import behind_all
from secondlook.service.generations.jobs import Jobs
from secondlook.service.generations.switching import Generations
from secondlook.service.http.admission import Admission
from secondlook.service.http.limits import Drain
from secondlook.service.maps import Components
from secondlook.service.metrics import Metrics, Snapshot
from secondlook.service.settings import Settings


@dataclass(frozen=True)
class State:
    """The parts of a running server."""

    settings: Settings
    admission: Admission
    batcher: Batcher
    generations: Generations
    jobs: Jobs
    decoders: Decoders
    metrics: Metrics
    drain: Drain
    making_thumbnail: asyncio.Lock = field(default_factory=asyncio.Lock)
    components: Components = field(default_factory=Components)
    suggesting: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="suggest", initializer=behind_all)
    )
    """One thread, that gives way to answers: what to label next is asked by one person, who can wait a second."""

    @property
    def hangs(self) -> bool:
        """Whether what is computed has come no further for longer than requests may take: it may never return."""
        return self.batcher.computing_s > self.settings.request_timeout_s

    @property
    def is_ready(self) -> bool:
        """Whether images sent now would be answered."""
        predictor = self.batcher.predictor
        if predictor.bundle.is_store_unreachable and not predictor.network_fallback:
            return False
        is_late = self.batcher.oldest_s > self.settings.request_timeout_s
        return (
            self.batcher.is_running
            and self.decoders.is_running
            and not self.hangs
            and not is_late
            and not self.drain.has_begun
        )

    def snapshot(self) -> Snapshot:
        """The state at this moment, for the metrics."""
        predictor = self.batcher.predictor
        bundle = predictor.bundle
        return Snapshot(
            generation=bundle.manifest.generation,
            engine=bundle.engine.name,
            entries=predictor.store.count,
            added_images=predictor.overlay.added.images,
            is_store_unreachable=bundle.is_store_unreachable,
            is_ready=self.is_ready,
            waiting_images=self.batcher.waiting,
            oldest_s=self.batcher.oldest_s,
            admitted_images=self.admission.images,
            admitted_bytes=self.admission.bytes,
            max_images=self.admission.max_images,
            max_bytes=self.admission.max_bytes,
            is_rebuilding=self.jobs.is_rebuilding,
        )

    async def current(self) -> Predictor:
        """The predictor, with every change acknowledged until now; as it is where the journal cannot be read.

        Raises:
            UnavailableError: nothing computes answers, or what it computes takes too long.
        """
        with suppress(JournalError):
            await self.generations.catch_up()
        return self.batcher.predictor


# Asynchronous although it awaits nothing: otherwise it would cost a thread's turn.
async def _state(request: Request) -> State:
    state: State = request.app.state.running
    return state


Running = Annotated[State, Depends(_state)]
"""A route's parameter that is the state."""


async def _current(state: Running) -> Predictor:
    return await state.current()


Current = Annotated[Predictor, Depends(_current)]
"""A route's parameter that is the predictor."""

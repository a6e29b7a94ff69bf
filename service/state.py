"""What the calls share, kept on the app and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.batcher import Batcher
from service.decoders import Decoders
from service.door import Door
from service.generations import Generations
from service.guard import Drain
from service.jobs import Rebuilds
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The parts of a running server."""

    settings: Settings
    door: Door
    batcher: Batcher
    generations: Generations
    rebuilds: Rebuilds
    decoders: Decoders
    metrics: Metrics
    drain: Drain

    @property
    def is_ready(self) -> bool:
        """Whether images sent now would be answered.

        Not while a batch takes longer than its requests may: a predictor's call that hangs never returns.
        """
        predictor = self.batcher.predictor
        if predictor.bundle.is_store_away and not predictor.alone:
            return False
        hangs = max(self.batcher.computing_s, self.batcher.oldest_s) > self.settings.request_timeout_s
        return self.batcher.is_running and self.decoders.is_running and not hangs and not self.drain.has_begun


# Asynchronous although it awaits nothing: otherwise it would cost a thread's turn.
async def _state(request: Request) -> State:
    state: State = request.app.state.running
    return state


Running = Annotated[State, Depends(_state)]
"""A route's way to the state."""

"""What the calls share, kept on the app and nowhere else."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.batcher import Batcher
from service.generations import Generations
from service.jobs import Rebuilds
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The parts of a running server."""

    settings: Settings
    batcher: Batcher
    generations: Generations
    rebuilds: Rebuilds
    decoders: Executor
    """Threads that decode images: few, because one image may need 200 MB."""


def _state(request: Request) -> State:
    state: State = request.app.state.running
    return state


Running = Annotated[State, Depends(_state)]
"""A route's way to the state."""

"""Load on a server, with one image a request as a raw body, to be called in a process of its own.

Closed loop: so many connections, each of which asks again as soon as it is answered. It finds how many images a second
a server can answer, and how long each takes while so many others ask. A server that answers slowly is asked less often,
so how long its users would wait is not in it. That takes the open loop: requests are sent when they are due, at random
times (a Poisson process) of a given rate, over as many connections as it takes, and the wait is counted from when a
request was due, not from when it was sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.client import Client
from benchmarks.sender import Answers, Sender, address_of, requests_of

FEWEST = 2
"""Answers for each connection that a closed loop waits for, however short it is to be."""
LOOK_SECONDS = 0.002


@dataclass
class Loaded:
    """What came of a load."""

    waits: list[float] = field(default_factory=list)
    """Seconds, of each image answered."""
    failures: int = 0
    """Requests that were not answered with 200."""
    seconds: float = 0.0
    """How long it was counted."""
    sender_cores: float = 0.0
    """How many processor cores the sender itself took of the server's."""
    total: int = 0
    """Requests that were answered or failed, those that do not count among them."""


def run(loop: Callable[..., Coroutine[Any, Any, Loaded]], *given: Any) -> Loaded:
    """Run one of the loops below, from its beginning to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(loop(*given))


async def closed_loop(url: str, bodies: Sequence[bytes], connections: int, warm_up: float, seconds: float) -> Loaded:
    """Ask over so many connections; what ends within the warm-up does not count."""
    requests, answers = itertools.cycle(requests_of(bodies)), Answers()
    loop, (host, port) = asyncio.get_running_loop(), address_of(url)
    senders: dict[int, Sender] = {}
    has_ended = False

    async def ask_on(number: int) -> None:
        while not has_ended:
            try:
                _, senders[number] = await loop.create_connection(lambda: Sender(requests, answers), host, port)
            except OSError:  # refused, or no socket left
                answers.note(None)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                await senders[number].closed

    async def last(span: float, fewest: int) -> None:
        until = time.monotonic() + span
        while time.monotonic() < until or len(answers.waits) + answers.failures < fewest:
            await asyncio.sleep(LOOK_SECONDS)
            for sender in senders.values():
                if sender.hangs:
                    sender.give_up()

    asking = [asyncio.create_task(ask_on(number)) for number in range(connections)]
    await last(warm_up, connections)
    answers.begin()
    started, spent = time.monotonic(), time.process_time()
    await last(seconds, FEWEST * connections)
    took = time.monotonic() - started
    counted = Loaded(answers.waits, answers.failures, took, (time.process_time() - spent) / took)
    answers.begin()
    has_ended = True  # those still under way are answered, and not counted
    for sender in senders.values():
        sender.end()
    await asyncio.gather(*asking)
    counted.total = answers.total
    return counted


async def open_loop(url: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int) -> Loaded:
    """Send so many requests a second for so long, and wait until all are answered."""
    images, chance = itertools.cycle(bodies), random.Random(seed)
    loaded = Loaded()
    idle: list[Client] = []
    running: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        client = idle.pop() if idle else Client(url)
        await _ask(client, next(images), loaded, due)
        idle.append(client)

    started, spent = time.monotonic(), time.process_time()
    due = started
    while due < started + seconds:
        while (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)  # ends up to a millisecond late, which is then in the wait
        task = asyncio.create_task(one(due))
        running.add(task)
        task.add_done_callback(running.discard)
        due += chance.expovariate(rate)
    if running:
        await asyncio.wait(running)
    loaded.seconds = time.monotonic() - started
    loaded.sender_cores = (time.process_time() - spent) / loaded.seconds
    for client in idle:
        await client.__aexit__()
    return loaded


async def _ask(client: Client, body: bytes, loaded: Loaded, due: float) -> None:
    try:
        reply = await client.predict(body)
    except OSError:  # refused, reset, too late, or no socket left
        loaded.failures += 1
        return
    if reply.status == 200:
        loaded.waits.append(reply.started + reply.seconds - due)
    else:
        loaded.failures += 1

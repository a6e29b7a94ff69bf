"""A worker's signs of life, which its parent waits for.

A worker that is stopped (SIGSTOP, a debugger, a container that is frozen) or hangs keeps its part of the port: the
kernel goes on giving it connections, which nobody answers. So each worker writes an empty line to its parent every
BEAT_S, for as long as its event loop turns and what it computes goes on; and the parent ends one that is silent for
SILENT_S.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

BEAT_S = 0.5
SILENT_S = 5.0
"""Without a sign of life for so long, a worker is taken to hang. A loop that is only busy turns many times in it."""
ALL_SILENT_S = 30.0
"""The same where another worker is being started anew: what keeps several silent may be the machine."""
ASLEEP_S = 1.5
"""After the parent itself stood still for so long (a machine that was suspended, say), silence means nothing."""
BEAT = b"\n"
"""An empty line: what else a worker says has one of its own."""


class Pulse:
    """Writes to a descriptor while this process lives; from ``follow`` on, while it works."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turned: float | None = None
        """When the event loop turned last; None while the process starts, which may take minutes."""
        self._hangs: Callable[[], bool] = lambda: False
        # A thread, because the parent may be what does not read.
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def follow(self, hangs: Callable[[], bool]) -> None:
        """From now on, only while the running event loop turns, and what it computes does not hang."""
        self._hangs = hangs
        self._turn(asyncio.get_running_loop())

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned = time.monotonic()
        loop.call_later(BEAT_S / 2, self._turn, loop)

    def _beat(self) -> None:
        while True:
            turned = self._turned
            if turned is None or (time.monotonic() - turned < 2 * BEAT_S and not self._hangs()):
                try:
                    os.write(self._descriptor, BEAT)
                except OSError:  # the parent is gone
                    return
            time.sleep(BEAT_S)


class Watched:
    """What a parent knows of its workers' pulses, by their slots."""

    def __init__(self) -> None:
        self._heard: dict[int, float] = {}
        self._looked = time.monotonic()

    def hear(self, slot: int) -> None:
        """Note a sign of life."""
        self._heard[slot] = time.monotonic()

    def forget(self, slot: int) -> None:
        """Wait for none."""
        self._heard.pop(slot, None)

    def silent(self, *, is_one_missing: bool) -> list[int]:
        """Those that hang, the longest first; called every BEAT_S. One at a time, while another one is missing."""
        now = time.monotonic()
        if now - self._looked > ASLEEP_S:
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        found = sorted((heard, slot) for slot, heard in self._heard.items() if now - heard > SILENT_S)
        if is_one_missing:
            found = [(heard, slot) for heard, slot in found if now - heard > ALL_SILENT_S]
        return [slot for _, slot in found][:1]

"""The one thread that computes, and its place behind the one that answers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

logger = logging.getLogger(__name__)

STEPS = 5
"""By how much threads that work are nicer than the event loop's."""


def step_back() -> None:
    """Let the event loop go before this thread and those that it will start.

    Where all processors compute, a request that is only to be refused would wait for its turn among them: at twice the
    load, for 100 ms instead of 20.
    """
    if sys.platform == "linux":  # elsewhere priorities are the process's
        with suppress(OSError):  # where the system forbids it, all go at the same pace
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, nice + STEPS))


class ComputeThread(threading.Thread):
    """Takes a step whenever it is woken, for an event loop.

    A step that raises (in a predictor that calls ``sys.exit``, say) ends the thread: what state it left behind nobody
    knows. A ThreadPoolExecutor would go on.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        # A daemon: a step that never ends must not keep the process from ending.
        super().__init__(name="compute", daemon=True)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the thread has ended."""
        self._step = step
        self._calls: SimpleQueue[bool] = SimpleQueue()

    def wake(self) -> None:
        """Take a step, or another once the one at hand is over."""
        self._calls.put(True)

    def stop(self) -> None:
        """End after the steps that were asked for."""
        self._calls.put(False)

    def run(self) -> None:
        """The thread's own part."""
        step_back()
        try:
            while self._calls.get():
                self._step()
        except BaseException:
            logger.critical("the compute thread died", exc_info=True)
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self.ended.get_loop().call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

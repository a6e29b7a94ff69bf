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
from typing import Any, NamedTuple, TypeVar

from service.errors import UnavailableError

logger = logging.getLogger(__name__)
T = TypeVar("T")

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


class _Call(NamedTuple):
    function: Callable[..., Any]
    given: tuple[Any, ...]
    outcome: asyncio.Future[Any]


class ComputeThread(threading.Thread):
    """Makes one call after another for an event loop.

    A call that raises anything but an Exception (a predictor that calls ``sys.exit``, say) ends the thread: what state
    it left behind nobody knows. Whoever waits for that call is told at once; a ThreadPoolExecutor would go on.
    """

    def __init__(self) -> None:
        # A daemon: a call that never returns must not keep the process from ending.
        super().__init__(name="compute", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()

    async def call(self, function: Callable[..., T], *given: Any) -> T:
        """What the function returns; one call at a time.

        Raises:
            UnavailableError: the call ended the thread.
            Exception: what the function raised.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(function, given, outcome))
        return await outcome

    def stop(self) -> None:
        """End once the running call has returned."""
        self._calls.put(None)

    def run(self) -> None:
        """The thread's own part."""
        step_back()
        # Each call in a frame of its own: an idle thread must hold neither images nor a predictor that was replaced.
        while self._make(self._calls.get()):
            pass

    def _make(self, call: _Call | None) -> bool:
        if call is None:
            return False
        try:
            result = call.function(*call.given)
        except Exception as error:
            self._tell(call.outcome, None, error)
        except BaseException:
            logger.critical("the compute thread died", exc_info=True)
            self._tell(call.outcome, None, UnavailableError("the server failed on this batch: try again in a moment"))
            return False
        else:
            self._tell(call.outcome, result, None)
        return True

    def _tell(self, outcome: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        def tell() -> None:
            if outcome.done():  # nobody waits for it any more
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)

        self._loop.call_soon_threadsafe(tell)

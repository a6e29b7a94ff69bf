"""The end of a server process: in time after a signal, whatever hangs, and at once after a second one.

Python runs a signal's handler in the main thread, between two of its instructions, and ends a process only when all of
its threads have: one that waits for a disk, or counts in a library for minutes, keeps it for as long. So a thread of
its own hears of signals (from the C handler's own descriptor), and ends the process by force when its time is over.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a process may take to end beyond the time of its running requests."""
EARLIER_S = 1.25
"""By so much earlier it is ended by force, so that it is over by then."""
LEFTOVER_S = 0.5
"""How long threads may take to end once nothing else is left."""
SAME_S = 0.05
"""Two signals within it are one: ``timeout`` and some shells send theirs twice."""
SAY_S = 0.2
"""How long a last line may take to be logged."""
STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})


class Ending:
    """Hears signals from ``listen`` on, and sees to it that the process ends.

    ``stop_children`` is called before it is ended by force: it must not wait for anything.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        self.stop_children: Callable[[], None] = lambda: None
        self._drain_timeout_s = drain_timeout_s
        self._told, self._heard = socket.socketpair()
        for end in (self._told, self._heard):
            end.setblocking(False)
        self._first = 0.0
        """When the first signal came."""
        self._deadline, self._status = float("inf"), 1
        self._is_over = False

    def listen(self) -> None:
        """Begin, in the main thread and once its event loop runs, which listens to signals itself otherwise."""
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="ending", daemon=True).start()

    def over(self) -> None:
        """Say that all is done: the process ends with status 0, and soon, whichever thread still runs."""
        self._is_over = True
        self._deadline, self._status = time.monotonic() + LEFTOVER_S, 0
        self._told.send(b"\0")  # no signal: wakes the thread

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if not select.select([self._heard], [], [], None if left == float("inf") else left)[0]:
                continue
            for number in self._heard.recv(64):
                if number in STOPPING and not self._is_over:
                    self._hear(number)
        if self._status:
            busy = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
            _say("what runs does not end in time: it is ended by force (threads: %s)", busy)
        self._end(self._status)

    def _hear(self, number: int) -> None:
        now = time.monotonic()
        if not self._first:
            self._first, self._deadline = now, now + self._drain_timeout_s + GRACE_S - EARLIER_S
        elif now - self._first > SAME_S:
            _say("a second signal: what runs is ended by force")
            self._end(128 + number)

    def _end(self, status: int) -> None:
        try:
            self.stop_children()
        finally:
            os._exit(status)


def _say(sentence: str, *given: object) -> None:
    """Log, unless that takes long: who reads the log may be what hangs."""
    saying = threading.Thread(target=logger.error, args=(sentence, *given), daemon=True)
    saying.start()
    saying.join(SAY_S)

"""Bounds what all connections of a process hold together: descriptors, and answers that clients do not take."""

from __future__ import annotations

import logging
from typing import Protocol

logger = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 64 << 10
"""Asked of the system for each connection, which doubles it; left alone, it lets it grow to 4 MB."""
UNSENT_BYTES = 64 << 20
"""Answers that wait to be taken, in all. Beyond it, whoever has not taken theirs for the longest is cut off."""


class Connection(Protocol):
    """An open connection."""

    @property
    def unsent(self) -> int:
        """Bytes of answers that the system has not taken from the server."""
        ...

    def cut_off(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """The open connections, at most ``most``."""

    def __init__(self, most: int, unsent_bytes: int = UNSENT_BYTES) -> None:
        self._most, self._unsent_bytes = most, unsent_bytes
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Those with answers that wait to be taken, the longest first."""
        self._is_full = False

    def admit(self, connection: Connection) -> bool:
        """Count one more; False where there is no room for it."""
        if len(self._open) >= self._most:
            if not self._is_full:
                logger.warning("%d connections are open: others are turned away", len(self._open))
            self._is_full = True
            return False
        self._is_full = False
        self._open.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """Note that a client takes its answers too slowly; cut off the slowest where all hold too much."""
        self._waiting.setdefault(connection)
        unsent = sum(one.unsent for one in self._waiting)
        for one in list(self._waiting):
            if unsent <= self._unsent_bytes:
                break
            unsent -= one.unsent
            del self._waiting[one]
            one.cut_off()

    def took(self, connection: Connection) -> None:
        """Note that a client has taken its answers."""
        self._waiting.pop(connection, None)

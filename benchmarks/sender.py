"""One connection that asks again as soon as it is answered, and costs the machine little while it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import cast
from urllib.parse import urlsplit

from benchmarks.client import PREDICT, head, media_type

PATIENCE = 60.0
"""Seconds after which a request counts as hanging."""


class Answers:
    """What all connections of a load were answered."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        """Seconds, of each image answered with 200."""
        self.failures = 0
        self.total = 0
        """Of both, since the beginning."""

    def begin(self) -> None:
        """Count from here on."""
        self.waits, self.failures = [], 0

    def note(self, seconds: float | None) -> None:
        """One more; None = a failure."""
        self.total += 1
        if seconds is None:
            self.failures += 1
        else:
            self.waits.append(seconds)


def requests_of(bodies: Sequence[bytes]) -> list[bytes]:
    """Write whole requests, each of one image."""
    return [head("POST", PREDICT, len(body), {"Content-Type": media_type(body)}) + body for body in bodies]


class Sender(asyncio.Protocol):
    """HTTP/1.1, as much of it as answers need that say their length."""

    def __init__(self, requests: Iterator[bytes], answers: Answers) -> None:
        self._requests, self._answers = requests, answers
        self._received = bytearray()
        self._missing = -1
        """Bytes of the answer that have not come yet; -1 = its head has not."""
        self._status, self._started = 0, 0.0
        self._is_asking = self._has_ended = False
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()

    @property
    def hangs(self) -> bool:
        """Whether it has waited for too long."""
        return self._is_asking and time.monotonic() - self._started > PATIENCE

    def end(self) -> None:
        """Ask no more; an answer under way is still received."""
        self._has_ended = True
        if not self._is_asking and self._transport is not None:
            self._transport.close()

    def give_up(self) -> None:
        """Wait no longer: what was asked counts as failed."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its bases
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._received += data
        if self._missing < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            fields = bytes(self._received[:end]).lower()
            self._status = int(fields[9:12])
            length = fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._missing = end + 4 + int(length or 0)
            self._has_ended |= b"\r\nconnection: close" in fields
        if len(self._received) < self._missing:
            return
        self._is_asking = False
        self._answers.note(time.monotonic() - self._started if self._status == 200 else None)
        self._received.clear()
        self._missing = -1
        self._ask()

    def connection_lost(self, _: Exception | None) -> None:
        """The server has closed it, or this has."""
        if self._is_asking:
            self._answers.note(None)
        self._is_asking = False
        if not self.closed.done():
            self.closed.set_result(None)

    def _ask(self) -> None:
        assert self._transport is not None
        if self._has_ended:
            self._transport.close()
            return
        self._is_asking, self._started = True, time.monotonic()
        self._transport.write(next(self._requests))


def address_of(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port

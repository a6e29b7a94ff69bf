"""The door: bounds on what is let in at once, held against a request before its body is read.

Images and bytes count from the door to the answer: while they are received, decoded, waiting and computed. So what a
server holds is bounded, and who comes too late hears so at once instead of after an upload.
"""

from __future__ import annotations

import time
from collections import Counter
from math import ceil
from types import TracebackType
from typing import Literal

from service.errors import QueueFullError

MEMORY_S = 10.0
"""What the pace is measured over: after so long, half of what was seen is forgotten."""
LONGEST_WAIT_S = 60


class Door:
    """Lets requests in up to ``max_images`` and ``max_bytes`` in all. One that comes alone is always let in."""

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.images = 0
        """Let in and not yet answered."""
        self.bytes = 0
        """Of those: as announced, or as received so far."""
        self.refused = 0
        """Requests that found it full."""
        self.dropped: Counter[Literal["client_gone", "deadline"]] = Counter()
        """Requests given up before they cost a forward pass, and why."""
        self._since, self._left = 0.0, 0.0

    def admit(self, size: int = 0) -> Ticket:
        """Let a request of one image and so many bytes in; leaving the ticket's context lets it out again.

        Raises:
            QueueFullError: others are inside, and with it there would be too much.
        """
        if not self.images:
            self._since, self._left = time.monotonic(), 0.0
        ticket = Ticket(self)
        ticket.add(images=1, size=size)
        return ticket

    def wait_s(self) -> int:
        """Seconds until all who are inside have been answered, at the pace of late; whole ones, 1 to 60."""
        if not self._left:
            return LONGEST_WAIT_S if time.monotonic() - self._since > LONGEST_WAIT_S else 1
        return min(LONGEST_WAIT_S, max(1, ceil(self.images * (time.monotonic() - self._since) / self._left)))

    def _let_out(self, ticket: Ticket) -> None:
        self.images -= ticket.images
        self.bytes -= ticket.bytes
        self._left += ticket.images
        now = time.monotonic()
        if now - self._since > MEMORY_S:
            self._left, self._since = self._left / 2, (self._since + now) / 2


class Ticket:
    """One request's share of what is inside."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.images, self.bytes = 0, 0

    def add(self, *, images: int = 0, size: int = 0) -> None:
        """Make the share larger.

        Raises:
            QueueFullError: others are inside, and with that there would be too much.
        """
        door = self._door
        is_alone = door.images == self.images
        if not is_alone and (door.images + images > door.max_images or door.bytes + size > door.max_bytes):
            door.refused += 1
            wait = door.wait_s()
            raise QueueFullError(
                f"{door.images:,} images are being received or answered already: try again in {wait} s", wait
            )
        door.images += images
        door.bytes += size
        self.images += images
        self.bytes += size

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._door._let_out(self)

"""Bounds on the images and bytes that are in the server at once, checked before a request's body is read.

Images and bytes count from admission to the answer: while they are received, decoded, waiting and computed. So memory
is bounded, and a request that comes too late is refused at once instead of after its upload.

Of a body that was announced only its beginning counts before it comes: an announcement is free, and four of 64 MB with
nothing behind them would shut everybody else out. One that would not fit beside what is held is refused at once; where
several that would each have fit do not fit together, those that come last are refused while they are sent.
"""

from __future__ import annotations

import time
from math import ceil
from types import TracebackType

from secondlook.service.errors import QueueFullError

MEMORY_S = 10.0
"""What the pace is measured over: after so long, half of what was seen is forgotten."""
LONGEST_WAIT_S = 60
RESERVED_BYTES = 64 << 10
"""Of a body that was announced, kept free for it: an image of usual size that was let in is never refused after."""


class Admission:
    """Lets requests in up to ``max_images`` and ``max_bytes`` in all. One that comes alone is always let in."""

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.images = 0
        """Let in and not yet answered."""
        self.bytes = 0
        """Of those: as received so far, and up to RESERVED_BYTES as announced."""
        self._since, self._left = 0.0, 0.0

    def admit(self, size: int = 0) -> Ticket:
        """Let a request of one image and so many announced bytes in; leaving the ticket's context lets it out again.

        Raises:
            QueueFullError: others are inside, and with it there would be too much.
        """
        if not self.images:
            self._since, self._left = time.monotonic(), 0.0
        ticket = Ticket(self)
        self._require_room(ticket, images=1, size=size)
        ticket.images, ticket.bytes = 1, min(size, RESERVED_BYTES)
        self.images += ticket.images
        self.bytes += ticket.bytes
        return ticket

    def _require_room(self, ticket: Ticket, images: int, size: int) -> None:
        is_alone = self.images == ticket.images
        if not is_alone and (self.images + images > self.max_images or self.bytes + size > self.max_bytes):
            wait = self.wait_s()
            raise QueueFullError(
                f"{self.images:,} images are being received or answered already: try again in {wait} s", wait
            )

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

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.images, self.bytes = 0, 0
        self._received = 0

    def add(self, *, images: int = 0, received: int = 0) -> None:
        """Count more images, and more bytes that came.

        Raises:
            QueueFullError: others are inside, and with that there would be too much.
        """
        more = max(0, self._received + received - self.bytes)
        if images or more:
            self._admission._require_room(self, images, more)
        self._received += received
        self._admission.images += images
        self._admission.bytes += more
        self.images += images
        self.bytes += more

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission._let_out(self)

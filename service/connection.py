"""Uvicorn's HTTP connection, with the bounds that it lacks: on a request's head, and on how long an answer may wait.

And with answers that are sent whole.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problems import MEDIA_TYPE, Kind, ProblemError

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 << 10


class Together:
    """A transport that sends an answer's head and the first of its body at once.

    Uvicorn writes them one after the other. A server that is killed in between (1 of 16 were, under load) leaves half
    an answer, and nothing that a balancer could have another server answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send; a head alone a moment later, if no body follows until then."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close, once all is sent."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


def connection(header_timeout_s: float, body_timeout_s: float) -> type[HttpToolsProtocol]:
    """A connection's class, with these bounds."""

    class Connection(HttpToolsProtocol):
        """One client's connection.

        The time of a body that is read is bounded by ``Guard``, which answers with a problem document as for any other
        error. Here are the heads, bodies that nobody reads because the answer was given before, and answers that the
        client does not take: they are in memory until it does. Once so much of them is that the transport wants no
        more (64 KiB beside the system's own buffers), the connection's next request is not begun either.
        """

        _timer: asyncio.TimerHandle | None = None
        _taking: asyncio.TimerHandle | None = None
        _is_late = False
        _held: tuple[Any, Any] | None = None
        _is_body_over = True
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, Together(transport, self.loop)))
            self._arm(header_timeout_s, self._head_is_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._held = None
            if self._taking is not None:
                self._taking.cancel()
                self._taking = None
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._head_bytes += len(data)
            if self._is_body_over and self._timer is None:  # here begins the head of a request, or goes on
                self._arm(header_timeout_s, self._head_is_late)
            super().data_received(data)
            # What came at once was in memory anyway.
            if self._head_bytes <= MAX_HEADER_BYTES or self.transport.is_closing():
                return
            if not self._is_body_over:  # trailers, or a chunk's extensions, without end
                self.transport.abort()
            else:
                detail = f"The headers have more than {MAX_HEADER_BYTES:,} bytes: send fewer or shorter ones."
                self._refuse(ProblemError(Kind.HEADERS_TOO_LARGE, detail))

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._is_body_over:  # else it is a trailer, which nobody here has a use for
                super().on_header(name, value)

        def on_body(self, body: bytes) -> None:
            self._head_bytes = 0
            super().on_body(body)

        def on_headers_complete(self) -> None:
            self._disarm()
            self._head_bytes, self._is_body_over = 0, False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._disarm()
            self._is_body_over = True
            super().on_message_complete()
            if self.cycle.response_complete:  # the rest of a refused body has come
                self._arm(header_timeout_s, self._head_is_late)

        def on_response_complete(self) -> None:
            self._watch_taking()
            super().on_response_complete()
            if not self._is_body_over and self.cycle.response_complete:
                # The rest of a body that was refused is read and dropped, because a client that sends all of it before
                # it reads the answer would find the connection reset instead. But not for ever.
                self._arm(body_timeout_s, self.transport.close)

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            if self.flow.write_paused:
                self._held = (cycle, app)
            else:
                super()._start_asgi_task(cycle, app)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_taking()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._is_late:  # and now all of it was taken after all
                self._is_late = False
                self.transport.set_write_buffer_limits()
                if self._taking is not None:
                    self._taking.cancel()
                    self._taking = None
            if self._held is not None:
                held, self._held = self._held, None
                super()._start_asgi_task(*held)

        def _watch_taking(self) -> None:
            if self._taking is None:
                self._taking = self.loop.call_later(body_timeout_s, self._look_at_taking)

        def _look_at_taking(self) -> None:
            """See whether anything waits to be taken; if so, all of it has to be within as long again."""
            self._taking = None
            if self.transport.get_write_buffer_size():
                self._is_late = True
                # So that the transport says when nothing is left, and takes nothing more until then.
                self.transport.set_write_buffer_limits(high=0)
                self._taking = self.loop.call_later(body_timeout_s, self._cut_off)

        def _cut_off(self) -> None:
            self._taking = None
            logger.warning("a client did not take its answer within %g s: the connection was cut off", body_timeout_s)
            # With a reset: or else the system would keep megabytes for the client for minutes.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            self._refuse(ProblemError(Kind.MALFORMED_REQUEST, "The request is not valid HTTP."))

        def _head_is_late(self) -> None:
            self._timer = None
            if self.cycle is not None and not self.cycle.response_complete:
                # A head that was sent ahead of the answer to the one before it.
                self._arm(header_timeout_s, self._head_is_late)
            elif self._head_bytes:
                detail = f"The headers did not arrive within {header_timeout_s:g} s."
                self._refuse(ProblemError(Kind.TOO_SLOWLY_SENT, detail))
            else:
                self.transport.close()

        def _refuse(self, problem: ProblemError) -> None:
            """Answer what did not become a request, and close."""
            self._disarm()
            if self.transport.is_closing():
                return
            kind, body = problem.kind, problem.problem.model_dump_json(exclude_none=True).encode()
            head = (
                f"HTTP/1.1 {kind.status} {kind.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()
            self._watch_taking()

        def _arm(self, seconds: float, expired: Callable[[], None]) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, expired)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection

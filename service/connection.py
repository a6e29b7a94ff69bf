"""Uvicorn's HTTP connection, with the bounds that it lacks on how long and how large a request's head may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problems import MEDIA_TYPE, Kind, ProblemError

MAX_HEADER_BYTES = 64 << 10


def connection(header_timeout_s: float, body_timeout_s: float) -> type[HttpToolsProtocol]:
    """A connection's class, with these bounds."""

    class Connection(HttpToolsProtocol):
        """One client's connection.

        The time of a body that is read is bounded by ``Guard``, which answers with a problem document as for any other
        error. Here are the heads, and bodies that nobody reads because the answer was given before.
        """

        _timer: asyncio.TimerHandle | None = None
        _is_body_over = True
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arm(header_timeout_s, self._head_is_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
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
            super().on_response_complete()
            if not self._is_body_over and self.cycle.response_complete:
                # The rest of a body that was refused is read and dropped, because a client that sends all of it before
                # it reads the answer would find the connection reset instead. But not for ever.
                self._arm(body_timeout_s, self.transport.close)

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

        def _arm(self, seconds: float, expired: Callable[[], None]) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, expired)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection

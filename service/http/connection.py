"""Uvicorn's HTTP connection, with what it lacks: one reading of each request, and bounds.

Bounds on a request's head, and on how long an answer may wait; and answers are sent whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from secondlook.service.http.connections import SEND_BUFFER_BYTES, Connections
from secondlook.service.http.limits import RAW_HEADERS
from secondlook.service.logs import request_id
from secondlook.service.problems import MEDIA_TYPE, Kind, ProblemError, compressed
from secondlook.service.shortage import MAX_CONNECTIONS

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 << 10
HEADER_TIMEOUT_S = 10.0
"""For a request's head to arrive, or as long as its body may take where that is less."""
LINGER_S = 1.0
"""How long what a client still sends is read and dropped before its connection is closed."""
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)
"""A request's target that names the server too, as a proxy is asked."""


class Together:
    """A transport that sends an answer's head and the first of its body at once, and has the client read its end.

    Uvicorn writes them one after the other. A server that is killed in between (1 of 16 were, under load) leaves half
    an answer, and nothing that a balancer could have another server answer. And it closes at once: where the client
    still sends, the system answers that with a reset, and what the client has not read yet is gone.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, is_read: Callable[[], bool] = lambda: True
    ) -> None:
        self._transport, self._loop, self._is_read = transport, loop, is_read
        self._head, self._lingers = b"", False

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

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close, once all is sent; a moment later, if the client is not done."""
        self._send_head()
        if self._is_read() or self.is_closing():
            self._transport.close()
            return
        self._lingers = True
        with suppress(OSError):  # the client has left
            self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


def connection(body_timeout_s: float, connections: Connections | None = None) -> type[HttpToolsProtocol]:
    """A connection's class, with these bounds; those that are open are among ``connections``."""
    others = connections or Connections(MAX_CONNECTIONS)
    header_timeout_s = min(HEADER_TIMEOUT_S, body_timeout_s)

    class Connection(HttpToolsProtocol):
        """One client's connection.

        A request to speak another protocol (``Upgrade``) is read as if it did not ask for that: its body, and what
        follows. What is no request, or could be read as two, is refused and ends the connection, in its turn: after
        the answers to those before it.

        The time of a body that is read is bounded by ``RequestLimits``, which answers with a problem as for any other
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
        _head_size = 0
        _is_replayed = False
        _wrong: ProblemError | None = None
        _last: ProblemError | None = None
        """What the connection ends with, once those before it are answered."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            # The system keeps answers that a client does not take, and lets them grow to megabytes.
            own = transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            together = Together(transport, self.loop, self._is_all_read)
            super().connection_made(cast(asyncio.Transport, together))
            if others.admit(self):
                self._arm(header_timeout_s, self._head_is_late)
            else:
                detail = "Too many connections are open: try again later."
                self._refuse(ProblemError(Kind.NOT_READY, detail, headers={"Retry-After": "5"}))

        def _is_all_read(self) -> bool:
            """Whether nothing more is known to come: of a body, or after what was refused."""
            return self._is_body_over and (self._last is None or not self._head_bytes)

        def connection_lost(self, exc: Exception | None) -> None:
            others.leave(self)
            self._disarm()
            self._held = None
            if self._taking is not None:
                self._taking.cancel()
                self._taking = None
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._last is not None or self.transport.is_closing():  # nothing that follows is a request
                return
            self._head_bytes += len(data)
            if self._is_body_over and self._timer is None:  # here begins the head of a request, or goes on
                self._arm(header_timeout_s, self._head_is_late)
            self._parse(data)
            # What came at once was in memory anyway.
            if self._head_bytes <= MAX_HEADER_BYTES or self.transport.is_closing():
                return
            if not self._is_body_over:  # trailers, or a chunk's extensions, without end
                self.transport.abort()
            else:
                self._refuse(_too_large())

        def _parse(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            try:
                while True:
                    try:
                        self.parser.feed_data(data)
                        return
                    except httptools.HttpParserUpgrade as asked:
                        data = data[asked.args[0] :]
                        self._read_on()
            except httptools.HttpParserError:
                self._refuse(self._wrong or ProblemError(Kind.MALFORMED_REQUEST, "The request is not valid HTTP."))

        def _read_on(self) -> None:
            """Have a new parser read the body of a request after whose head the old one stopped."""
            version = self.parser.get_http_version()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            framing = [field for field in self.headers if field[0] in (b"content-length", b"transfer-encoding")]
            if not self.cycle.keep_alive:
                framing.append((b"connection", b"close"))
            head = b"".join(b"%b: %b\r\n" % field for field in framing)
            self._is_replayed = True
            self.parser.feed_data(b"POST / HTTP/%b\r\n%b\r\n" % (version.encode(), head))
            self._is_replayed = False

        def _should_upgrade(self) -> bool:
            return False

        def on_message_begin(self) -> None:
            if not self._is_replayed:
                self._head_size = 0
                super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            if not self._is_replayed:
                self._head_size += len(url)
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._is_body_over:  # else it is a trailer, which nobody here has a use for
                self._head_size += len(name) + len(value) + len(b": \r\n")
                super().on_header(name, value.rstrip(b" \t"))

        def on_body(self, body: bytes) -> None:
            self._head_bytes = 0
            super().on_body(body)

        def on_headers_complete(self) -> None:
            if self._is_replayed:
                return
            self._disarm()
            self._check_head()
            self._head_bytes, self._is_body_over = 0, False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():  # not yet: its body is read by the next parser
                return
            self._disarm()
            self._is_body_over = True
            super().on_message_complete()
            if not self.parser.should_keep_alive():  # which a trailer may say too
                self.cycle.keep_alive = False
            if self.cycle.response_complete:  # the rest of a refused body has come
                if self.cycle.keep_alive:
                    self._arm(header_timeout_s, self._head_is_late)
                else:
                    self.transport.close()

        def _check_head(self) -> None:
            """Refuse a head that is too large, or that others might read otherwise.

            Raises:
                ProblemError: says what is wrong; the parser raises its own error for it.
            """
            try:
                if self._head_size > MAX_HEADER_BYTES:
                    raise _too_large()
                version, method = self.parser.get_http_version(), self.parser.get_method()
                if version not in ("1.0", "1.1"):
                    raise ProblemError(Kind.MALFORMED_REQUEST, "The request is not HTTP/1.1.")
                if method == b"CONNECT":
                    detail = "CONNECT is not allowed: this server is no proxy."
                    raise ProblemError(Kind.METHOD_NOT_ALLOWED, detail, headers={"Allow": ""})
                self._take_target(method)
                codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
                if codings and version == "1.0":
                    raise ProblemError(Kind.MALFORMED_REQUEST, "Transfer-Encoding is no header of HTTP/1.0.")
                if codings not in ([], [b"chunked"]):
                    raise compressed("Transfer-Encoding", b", ".join(codings))
                lengths = [value for name, value in self.headers if name == b"content-length"]
                if version == "1.0" or (not codings and lengths in ([], [b"0"])):
                    self.expect_100_continue = False
            except ProblemError as wrong:
                self._wrong = wrong
                raise

        def _take_target(self, method: bytes) -> None:
            """Make a path of the request's target; the server that it may name is the one in ``Host``."""
            if self.url.startswith(b"/") or (self.url == b"*" and method == b"OPTIONS"):
                return
            absolute = _ABSOLUTE.fullmatch(self.url)
            if absolute is None:
                raise ProblemError(Kind.MALFORMED_REQUEST, "The request's target is not a path.")
            named, path = absolute[1], absolute[2] or b"/"
            if [named.lower()] != [value.lower() for name, value in self.headers if name == b"host"]:
                detail = "The request's target and its Host name two servers."
                raise ProblemError(Kind.MALFORMED_REQUEST, detail)
            self.url = path if path.startswith(b"/") else b"/" + path

        def on_response_complete(self) -> None:
            was_last = not self.pipeline
            self._watch_taking()
            super().on_response_complete()
            if self._last is not None and was_last and not self.transport.is_closing():
                self._write(self._last)
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
            others.waits(self)

        def resume_writing(self) -> None:
            super().resume_writing()
            others.took(self)
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
            self._abort()

        @property
        def unsent(self) -> int:
            return int(self.transport.get_write_buffer_size())

        def cut_off(self) -> None:
            logger.warning("a client did not take its answer, as many others: the connection was cut off")
            self._abort()

        def _abort(self) -> None:
            # With a reset: or else the system would keep megabytes for the client for minutes.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()

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
            """Answer what did not become a request, once those before it are answered, and close."""
            self._disarm()
            if self._last is not None or self.transport.is_closing():
                return
            self._last = problem
            if not self._is_body_over:  # it did become one, but its body is none
                if self.pipeline and self.pipeline[0][0] is self.cycle:
                    self.pipeline.popleft()  # it has not been begun; one before it has
                    return
                if self.cycle.response_started:
                    self.transport.close()
                    return
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            elif self.cycle is not None and not self.cycle.response_complete:
                return
            self._write(problem)

        def _write(self, problem: ProblemError) -> None:
            kind, body = problem.kind, problem.problem.model_dump_json(exclude_none=True).encode()
            given = next(
                (value.decode("latin-1") for name, value in self.headers or () if name == b"x-request-id"), None
            )
            named = request_id(given)
            fields = [
                *self.server_state.default_headers,
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()),
                *RAW_HEADERS,
                (b"x-request-id", named.encode()),
                (b"connection", b"close"),
            ]
            head = STATUS_LINE[kind.status] + b"".join(b"%b: %b\r\n" % field for field in fields)
            told = {"request_id": named, "status": kind.status, "problem": kind.slug}
            logger.info("refused before it was a request", extra={"fields": told})
            self.transport.write(head + b"\r\n" + (b"" if self.parser.get_method() == b"HEAD" else body))
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


def _too_large() -> ProblemError:
    detail = f"The headers have more than {MAX_HEADER_BYTES:,} bytes: send fewer or shorter ones."
    return ProblemError(Kind.HEADERS_TOO_LARGE, detail)

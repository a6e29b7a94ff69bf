"""What holds for every call: a bound on the bytes received, security headers, and an answer to any error."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Kind, ProblemError, to_problem

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """The outermost ASGI layer that is ours."""

    def __init__(self, app: ASGIApp, max_request_bytes: int) -> None:
        self.app, self.max_request_bytes = app, max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_request_bytes:
                raise self._too_many_bytes()
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            declared = Headers(scope=scope).get("content-length", "")
            if declared.isdecimal() and int(declared) > self.max_request_bytes:
                # Before the first receive(): a client that waits for "100 Continue" then sends nothing.
                raise self._too_many_bytes()
            await self.app(scope, counted, with_headers)
        except ClientDisconnect:
            pass  # there is nobody to answer
        except Exception as error:
            if started:
                raise
            problem = to_problem(error)
            if problem.kind is Kind.INTERNAL:
                logger.exception("%s failed", scope["method"])
            await problem.response()(scope, receive, with_headers)

    def _too_many_bytes(self) -> ProblemError:
        return ProblemError(
            Kind.TOO_MANY_BYTES,
            f"The request has more than {self.max_request_bytes:,} bytes: send fewer or smaller images.",
        )

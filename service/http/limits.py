"""Bounds a request's body and the time of its answer, adds security headers, and answers any error."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondlook.service.http.hosts import PROBED, Hosts
from secondlook.service.prefix import link
from secondlook.service.problems import Kind, ProblemError, compressed, to_problem
from secondlook.service.settings import Settings
from secondlook.service.shortage import is_passing

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


SMALL_BODY_BYTES = 64 << 10
"""Bodies of all calls but those that take images, or their keys: they are read and parsed before the key is looked at.
"""

TAKES_IMAGES = frozenset({"/v1/predict", "/v1/search", "/v1/embed", "/v1/suggest", "/v1/entries"})

LEAST_BYTES, STALL_S = 1 << 10, 10.0
"""So much of a body must come in each so many seconds: one that brings less holds a place for nothing."""

SINGLE = frozenset({b"authorization", b"content-encoding", b"content-type", b"idempotency-key"})
"""Headers of which a second one would be read by some, and not by others."""

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST"
"""All that any call here takes."""


@dataclass
class Drain:
    """Whether the server is about to stop: what has begun is finished, and nothing else is begun."""

    has_begun: bool = False


class RequestLimits:
    """An ASGI layer that refuses what is too large, too slow or for another host, and ends what takes too long."""

    def __init__(self, app: ASGIApp, settings: Settings, drain: Drain) -> None:
        self.app, self.drain, self.hosts = app, drain, Hosts(settings)
        self.max_request_bytes, self.body_timeout_s = settings.max_request_bytes, settings.body_timeout_s
        self.answer_timeout_s = 2 * settings.request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        received, seen, is_complete, started = 0, 0, False, False
        # A client that waits for "100 Continue", and gets an answer instead, may send the body or not: what follows
        # could be read as either.
        is_waiting = headers.get("expect", "").lower() == "100-continue"
        most = self.max_request_bytes
        if scope["path"] not in TAKES_IMAGES:
            most = min(most, SMALL_BODY_BYTES)
        clock = asyncio.get_running_loop().time
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        limit = asyncio.timeout(self.answer_timeout_s + (self.body_timeout_s if has_body else 0))
        deadline = clock() + self.body_timeout_s
        stalled = clock() + STALL_S

        def bound(when: float | None) -> None:
            with suppress(RuntimeError):  # it is over, and this is the answer that says so
                limit.reschedule(when)

        async def bounded() -> Message:
            nonlocal received, seen, stalled, is_complete, is_waiting
            is_waiting = False
            if is_complete:  # what may still come is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(min(deadline, stalled)):
                    message = await receive()
            except TimeoutError as error:
                raise (_stalled() if stalled < deadline else self._too_slow()) from error
            is_complete = not message.get("more_body", False)
            if is_complete:
                bound(clock() + self.answer_timeout_s)
            received += len(message.get("body", b""))
            if received > most:
                raise _too_many_bytes(most)
            if received >= seen + LEAST_BYTES:
                seen, stalled = received, clock() + STALL_S
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                bound(None)  # how long it may take to be taken is the connection's to say
                # No route sets one of these, so none is looked for.
                message["headers"] = [*message["headers"], *RAW_HEADERS]
                if self.drain.has_begun or is_waiting:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            async with limit:
                self.hosts.check(scope)
                single = [name for name, _ in scope["headers"] if name in SINGLE]
                if len(single) > len(set(single)):
                    raise _given_twice(max(single, key=single.count))
                # Whoever watches the server shall see it stop.
                if self.drain.has_begun and scope["path"] not in PROBED:
                    raise _stopping("new requests")
                if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
                    raise compressed("Content-Encoding", headers["content-encoding"].encode("latin-1"))
                declared = headers.get("content-length", "")
                if declared.isdecimal() and int(declared) > most:
                    # Before the first receive(): a client that waits for "100 Continue" then sends nothing.
                    raise _too_many_bytes(most)
                await self._pass(scope, bounded, with_headers)
        except ClientDisconnect:
            pass  # there is nobody to answer
        except asyncio.CancelledError:
            if started or not self.drain.has_begun:
                raise
            # Its time is over: the server cancels what is left when it stops.
            await _stopping("this request").response()(scope, receive, with_headers)
        except Exception as error:
            if started:
                raise
            # What nothing else bounds: a thread that waits for a disk, a lock whose holder does.
            problem = self._too_late() if limit.expired() else to_problem(error)
            if problem.kind is Kind.INTERNAL or is_passing(error):
                logger.exception("%s failed", scope["method"])
            await problem.response()(scope, receive, with_headers)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on; HEAD as GET, whose body the server does not send then."""
        if not scope["path"]:
            await RedirectResponse(link("/"), 308)(scope, receive, send)
        elif scope["path"] == "*":
            await Response(status_code=204, headers={"Allow": METHODS})(scope, receive, send)
        elif scope["method"] == "HEAD":
            asked = {**scope, "method": "GET"}
            try:
                await self.app(asked, receive, send)
            finally:
                scope.update({**asked, "method": "HEAD"})
        else:
            await self.app(scope, receive, send)

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            Kind.TOO_SLOWLY_SENT,
            f"The body did not arrive within {self.body_timeout_s:g} s: send less at once, or faster.",
            headers={"Connection": "close"},
        )

    def _too_late(self) -> ProblemError:
        detail = f"No answer within {self.answer_timeout_s:g} s: what it began may go on; try again later."
        return ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": "5"})


def _stalled() -> ProblemError:
    return ProblemError(
        Kind.TOO_SLOWLY_SENT,
        f"Fewer than {LEAST_BYTES:,} bytes of the body came within {STALL_S:g} s: send it faster.",
        headers={"Connection": "close"},
    )


def _given_twice(name: bytes) -> ProblemError:
    return ProblemError(Kind.MALFORMED_REQUEST, f"The request has two headers {name.decode().title()}: send one.")


def _too_many_bytes(most: int) -> ProblemError:
    return ProblemError(
        Kind.TOO_MANY_BYTES,
        f"The request has more than {most:,} bytes, which this call takes at most: send less at once.",
    )


def _stopping(what: str) -> ProblemError:
    return ProblemError(
        Kind.NOT_READY,
        f"The server is stopping and does not answer {what}: send it again in a moment.",
        headers={"Retry-After": "5"},
    )

"""Names each request, counts it, and logs one line about it."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondlook.service.logs import begin_request
from secondlook.service.metrics import CLIENT_GONE, METHODS, Metrics

logger = logging.getLogger(__name__)


class AccessLog:
    """An ASGI layer around all others but ``Prefix``."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        log = begin_request(headers.get("x-request-id"), headers.get("traceparent"))
        status: int | None = None

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", log.id.encode())]
            await send(message)

        started = time.perf_counter()
        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, named)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.in_flight.dec()
            route = _template(scope)
            self.metrics.answered_request(scope["method"], route, status, log.problem, seconds)
            method = scope["method"] if scope["method"] in METHODS else "other"
            fields: dict[str, object] = {"method": method, "route": route, "status": status or CLIENT_GONE}
            fields["ms"] = round(1000 * seconds, 1)
            if log.key is not None:
                fields["key"] = log.key
            if log.problem is not None:
                fields["problem"] = log.problem.slug
            # Not the path itself: it is the client's text, and the template says which call it was.
            logger.info("answered" if status else "the client left", extra={"fields": fields})


def _template(scope: Scope) -> str | None:
    """The route's template; a mounted folder's path; None where nothing matched."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    return str(scope["root_path"]) if "endpoint" in scope else None

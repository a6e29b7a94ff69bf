"""The path below which a proxy serves this server, so that links in answers are right there.

All calls are known by their path without it, whether the proxy takes it off or not.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){1,8}")
"""A path of plain parts: no other server's name, no way up, nothing that ends a header or a string."""

_prefix: ContextVar[str] = ContextVar("prefix", default="")


def link(path: str) -> str:
    """A path of this server, as the client of the request being answered reaches it."""
    return _prefix.get() + path


class Prefix:
    """An ASGI layer that takes the prefix off paths: that of the settings, or the one that a proxy here names.

    ``X-Forwarded-Prefix`` counts only where no setting names one and only from this machine, as it reaches links.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        if scope["type"] == "http":
            prefix = self.root_path or _forwarded(scope)
            _prefix.set(prefix)
            # Of the prefix alone nothing is left: relative links would miss its last part there.
            if prefix and f"{scope['path']}/".startswith(f"{prefix}/"):
                scope["path"] = scope["path"][len(prefix) :]
        await self.app(scope, receive, send)


def _forwarded(scope: Scope) -> str:
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
    if len(sent) != 1 or not _is_here(scope.get("client")):
        return ""
    prefix = sent[0].rstrip("/")
    return prefix if PREFIX.fullmatch(prefix) else ""


def _is_here(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and ip_address(client[0]).is_loopback
    except ValueError:
        return False

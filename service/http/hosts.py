"""Which ``Host`` a request may name, so that another site's page cannot read this server's answers.

A browser lets a page read what comes from the page's own name. A name's owner may have it resolve to 127.0.0.1 (DNS
rebinding): then a page of theirs reads a server that only this machine's own programs should reach. The name stays
theirs in ``Host``.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import Scope

from secondlook.service.problems import Kind, ProblemError, clean
from secondlook.service.settings import PREFIX, Settings, unknown_variables

logger = logging.getLogger(__name__)

PROBED = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that whoever watches a server asks for by its address: a pod's, say, which no setting can name."""

_HOST = re.compile(r"(?:\[(?P<ip>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9_.-]{1,253}))(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address to listen on; a name is looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return all(ip_address(one.partition("%")[0]).is_loopback for one in found)


def tell_at_start(settings: Settings) -> None:
    """Warn of variables that are no settings, and where requests to any host are answered."""
    for sentence in unknown_variables(os.environ):
        logger.warning("%s", sentence)
    if settings.allowed_hosts is None and not is_loopback(settings.host):
        logger.warning(
            "requests to any name are answered: set %sALLOWED_HOSTS to the names that this server has", PREFIX
        )


class Hosts:
    """The names that a server answers for."""

    def __init__(self, settings: Settings) -> None:
        allowed = settings.allowed_hosts
        self._on_loopback = is_loopback(settings.host)
        self.takes_any = "*" in allowed if allowed is not None else not self._on_loopback
        """Whether any name will do."""
        self._names = frozenset(allowed or ())
        self._is_known = lru_cache(maxsize=256)(self._look_up)

    def check(self, scope: Scope) -> None:
        """Refuse a request for another server.

        Raises:
            ProblemError: 400 where it does not name one server, 421 where it names one that this is not.
        """
        sent = [value for name, value in scope["headers"] if name == b"host"]
        if len(sent) != 1 or not sent[0]:
            raise ProblemError(Kind.MALFORMED_REQUEST, "The request has no Host, or more than one: send one.")
        host = sent[0].decode("latin-1")
        match = _HOST.fullmatch(host)
        if match is None:
            raise ProblemError(Kind.MALFORMED_REQUEST, f"The Host {clean(host)} is not a name or an address.")
        name = (match["ip"] or match["name"]).lower().removesuffix(".")
        if self.takes_any or self._is_known(name):
            return
        if not self._on_loopback and scope["path"] in PROBED and _address(name) is not None:
            return  # no page comes from an address that is not this server's
        raise ProblemError(
            Kind.HOST_NOT_SERVED,
            f"This server does not answer for {clean(name)}: add it to SECONDLOOK_ALLOWED_HOSTS and restart it.",
        )

    def _look_up(self, name: str) -> bool:
        if name == "localhost" or _address(name) == "loopback" or name in self._names:
            return True
        parents = name.split(".")[1:]
        return any(f"*.{'.'.join(parents[i:])}" in self._names for i in range(len(parents)))


def _address(name: str) -> str | None:
    """What kind of an address it is; None where it is a name."""
    try:
        return "loopback" if ip_address(name).is_loopback else "other"
    except ValueError:
        return None

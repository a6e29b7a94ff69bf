"""The address that a server listens on."""

from __future__ import annotations

import errno
import socket
from typing import Any

from secondlook.service.errors import ListenError

Address = tuple[int, Any]
"""Family, and what sockets of that family call an address."""

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def bind(host: str, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    """Sockets on all addresses of a host, all on one port, that do not listen yet; shared with other such ones or not.

    Raises:
        ListenError: another program has the port, this one may not have it, or the host is none of this machine's.
    """
    bound: list[socket.socket] = []
    try:
        absent: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                bound.append(_bind(family, (address[0], port, *address[2:]), is_shared=is_shared))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error  # localhost is ::1 too, where there is no IPv6
            else:
                port = bound[-1].getsockname()[1]
        if not bound and absent is not None:
            raise absent
    except OSError as error:
        close(bound)
        raise refusal(error, host, port) from error
    return bound


def reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep the port for workers, and take no connections.

    Raises:
        ListenError: as ``bind``.
    """
    # Not shared at first: or else a second server would take a part of the first one's connections.
    alone = bind(host, port)
    port = alone[0].getsockname()[1]
    close(alone)
    return bind(host, port, is_shared=True)


def close(sockets: list[socket.socket]) -> None:
    """Let go of them."""
    for one in sockets:
        one.close()


def refusal(error: OSError, host: str, port: int) -> ListenError:
    """Why an address cannot be listened on, and what to do."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return ListenError(f"the host {host} is not known here: choose another with --host")
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"{where} is taken by another program: end that, or choose another port with --port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"{where} may not be listened on by this user: choose a port from 1024 on with --port")
    if error.errno in _ABSENT:
        return ListenError(f"{where} is no address of this machine: choose another with --host")
    return ListenError(f"{where} cannot be listened on ({error.strerror}): choose another with --host and --port")


def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # a part of the name that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _bind(family: int, address: Any, *, is_shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound

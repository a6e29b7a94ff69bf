"""Requests by the thousand: HTTP/1.1 over bare asyncio streams, because a client library costs more than an answer."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from secondlook.model.images import sniff

PREDICT = "/v1/predict"
PATIENCE = 60.0
"""Seconds after which a request counts as hanging."""


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    body: bytes
    started: float
    """time.monotonic() as it was sent."""
    seconds: float

    def json(self) -> Any:
        """Read the body as JSON."""
        return json.loads(self.body)


class Client:
    """One connection, opened anew whenever the server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, half_close: bool = False
    ) -> Reply:
        """Send and receive.

        Raises:
            TimeoutError: no answer within PATIENCE.
            ConnectionError: the server closed the connection without one.
        """
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            if self._streams is not None and self._streams[0].at_eof():  # closed for having been idle
                await self.__aexit__()
            reader, writer = self._streams or await asyncio.open_connection(self._host, self._port)
            self._streams = None
            try:
                writer.write(head(method, path, len(body), headers or {}) + body)
                if half_close:
                    writer.write_eof()
                status, content, is_kept = await receive(reader)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise ConnectionError(f"{method} {path}: closed without an answer") from error
            else:
                if is_kept and not half_close:
                    self._streams = reader, writer
            finally:
                if self._streams is None:
                    await hang_up(writer)
        return Reply(status, content, started, time.monotonic() - started)

    async def predict(self, png: bytes, query: str = "") -> Reply:
        """Ask about one image."""
        return await self.request("POST", f"{PREDICT}{query}", png, {"Content-Type": media_type(png)})

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._streams is not None:
            await hang_up(self._streams[1])
            self._streams = None


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever state it is in."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def head(method: str, path: str, length: int, headers: dict[str, str]) -> bytes:
    """Return a request's head."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Read status and body of an answer, and whether the connection may be used again."""
    received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in received[1:])}
    status = int(received[0].split()[1])
    body = await reader.readexactly(int(fields["content-length"])) if "content-length" in fields else b""
    return status, body, fields.get("connection", "").lower() != "close"


def media_type(body: bytes) -> str:
    """Of an image file."""
    return f"image/{(sniff(body[:64]) or 'png').lower()}"


def percentile(seconds: list[float], share: float) -> float:
    """Return that percentile in milliseconds; nan of nothing."""
    if not seconds:
        return float("nan")
    return 1000 * sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]

"""A request's images: received within bounds, from a raw body or multipart/form-data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from secondlook.service.http.admission import Ticket
from secondlook.service.problems import Kind, ProblemError, clean, compressed, likely
from secondlook.service.settings import Settings

FIELD = "file"
PLAIN = frozenset({b"", b"identity", b"7bit", b"8bit", b"binary"})
"""Codings of a part that change nothing."""
MAX_TEXT_BYTES = 16 << 10
"""Of a text field."""


class Upload(NamedTuple):
    """One image as it was sent."""

    filename: str | None
    """The client's name for it, cleaned; None where it gave none."""
    content: bytes | ProblemError
    """Its bytes, or why they were not kept."""


def announced_bytes(request: Request) -> int:
    """How many bytes the body has, by its header; 0 where it does not say."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


class Form(NamedTuple):
    """What a request brings."""

    files: list[Upload]
    """One or more."""
    fields: dict[str, str]
    """Text fields of multipart/form-data, of those that were asked for."""


async def receive(request: Request, settings: Settings, ticket: Ticket, *texts: str) -> Form:
    """Receive all images of a request, one or more, and its text fields of those names (``texts``).

    At no time are more bytes held than the limits allow. The ticket grows with each image after the first,
    and with the bytes.

    Raises:
        QueueFullError: others are being answered, and there is no room for all of this request.
        ProblemError: nothing was sent as a file, too many files, not a type that is taken, malformed multipart, or a
            text field that is too long or no text.
        ClientDisconnect: the client left.
    """
    content_type = request.headers.get("content-type", "")
    media_type, options = parse_options_header(content_type)
    if media_type.startswith(b"image/"):
        body = _Content(None, settings.max_file_bytes)
        async for chunk in _stream(request, ticket):
            body.add(chunk)
        return Form([body.upload()], {})
    if media_type == b"multipart/form-data":
        return await _read_multipart(request, options.get(b"boundary", b""), settings, ticket, texts)
    named = f"is {clean(content_type)}" if content_type else "is missing"
    raise ProblemError(
        Kind.UNSUPPORTED_MEDIA_TYPE,
        f"The content type {named}: send multipart/form-data with the field {FIELD}, or a raw body of type image/*.",
    )


async def _stream(request: Request, ticket: Ticket) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        ticket.add(received=len(chunk))
        yield chunk


class _Content:
    """One file's bytes, dropped once they are too many."""

    def __init__(self, filename: str | None, limit: int) -> None:
        self.filename, self.limit = filename, limit
        self.kept, self.received = bytearray(), 0

    def add(self, data: bytes) -> None:
        self.received += len(data)
        if self.received <= self.limit:
            self.kept += data
        else:
            self.kept.clear()

    def upload(self) -> Upload:
        if self.received <= self.limit:
            content, self.kept = bytes(self.kept), bytearray()  # or all of a request's would be held twice
            return Upload(self.filename or None, content)
        detail = f"the image has more than {self.limit:,} bytes: send a smaller one."
        return Upload(self.filename or None, ProblemError(Kind.TOO_MANY_BYTES, detail))


class _Parts:
    """What the multipart parser calls: keeps the parts of the field ``file`` and some of text, refuses all others."""

    def __init__(self, settings: Settings, ticket: Ticket, texts: tuple[str, ...]) -> None:
        self.settings, self.ticket, self._texts = settings, ticket, texts
        self._known = (FIELD, *texts)
        self.fields: dict[str, bytearray] = {}
        self.unknown = ""
        """What is wrong with the first field that the call does not take."""
        self._text: str | None = None
        self.files: list[_Content] = []
        self.ended = False
        self._header = self._value = b""
        self._disposition = b""
        self._codings: list[tuple[str, bytes]] = []
        self._current: _Content | None = None

    def on_part_begin(self) -> None:
        self._disposition, self._current, self._text = b"", None, None
        self._codings = []

    def on_header_begin(self) -> None:
        self._header = self._value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        match self._header.lower():
            case b"content-disposition":
                self._disposition = self._value
            case b"content-encoding" | b"content-transfer-encoding" if self._value.strip().lower() not in PLAIN:
                self._codings.append((self._header.decode("latin-1"), self._value))

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        named = _decoded(options.get(b"name", b""))
        for coding in self._codings:
            raise compressed(*coding)
        if named in self._texts:
            if named in self.fields:
                raise ProblemError(Kind.INVALID_PARAMETER, f"{named}: the form has it twice: give it once.")
            self._text = named
            self.fields[named] = bytearray()
        elif named != FIELD:
            self.unknown = self.unknown or f"{clean(named)}: there is no such field{likely(named, self._known)}."
        if named != FIELD:
            return
        if len(self.files) == self.settings.max_files:
            raise ProblemError(
                Kind.TOO_MANY_FILES,
                f"The request has more than {self.settings.max_files} files: send them in several requests.",
            )
        if self.files:
            self.ticket.add(images=1)
        name = options.get(b"filename")
        self._current = _Content(None if name is None else clean(_decoded(name)), self.settings.max_file_bytes)
        self.files.append(self._current)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current.add(data[start:end])
        elif self._text is not None:
            kept = self.fields[self._text]
            kept += data[start:end]
            if len(kept) > MAX_TEXT_BYTES:
                detail = f"{self._text}: it has more than {MAX_TEXT_BYTES:,} bytes."
                raise ProblemError(Kind.INVALID_PARAMETER, detail)

    def on_end(self) -> None:
        self.ended = True


async def _read_multipart(
    request: Request, boundary: bytes, settings: Settings, ticket: Ticket, texts: tuple[str, ...]
) -> Form:
    parts = _Parts(settings, ticket, texts)
    try:
        if not boundary:
            raise FormParserError("no boundary")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.on_part_begin,
                "on_part_data": parts.on_part_data,
                "on_header_begin": parts.on_header_begin,
                "on_header_field": parts.on_header_field,
                "on_header_value": parts.on_header_value,
                "on_header_end": parts.on_header_end,
                "on_headers_finished": parts.on_headers_finished,
                "on_end": parts.on_end,
            },
        )
        async for chunk in _stream(request, ticket):
            if chunk:
                parser.write(chunk)
    except FormParserError as error:
        raise ProblemError(Kind.MALFORMED_REQUEST, "The body is not valid multipart/form-data.") from error
    # A browser sends an empty part without a name for a file input in which nothing was chosen.
    files = [file for file in parts.files if file.received or file.filename != ""]
    if parts.ended and files and parts.unknown:
        raise ProblemError(Kind.INVALID_PARAMETER, parts.unknown)
    if parts.ended and files:
        return Form([file.upload() for file in files], {name: _text(name, sent) for name, sent in parts.fields.items()})
    if not parts.ended and parts.files:
        raise ProblemError(Kind.MALFORMED_REQUEST, "The body ends in the middle of multipart/form-data.")
    raise ProblemError(Kind.MISSING_FILE, f"The request has no image: send one or more in the field {FIELD}.")


def _text(name: str, sent: bytearray) -> str:
    try:
        return sent.decode()
    except UnicodeDecodeError as error:
        raise ProblemError(Kind.INVALID_PARAMETER, f"{name}: it is not text in UTF-8.") from error


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")

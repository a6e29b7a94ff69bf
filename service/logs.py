"""Logs: one line or one JSON object for each event, with the request that it belongs to.

No text of a client can end a line or begin one: what does not print is escaped in both formats.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from secondlook.service.kinds import Kind

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Trace(NamedTuple):
    """The caller's place in a distributed trace (W3C Trace Context, level 1)."""

    trace_id: str
    parent_id: str


@dataclass
class RequestLog:
    """What the lines of one request have in common; filled in while it is answered."""

    id: str
    trace: Trace | None = None
    key: str | None = None
    """The name of the key it came with."""
    problem: Kind | None = None
    """The problem it was answered with."""


_current: ContextVar[RequestLog | None] = ContextVar("request", default=None)


def request_log() -> RequestLog:
    """That of the request being answered; one that goes nowhere outside of any."""
    return _current.get() or RequestLog("")


def request_id(given: str | None) -> str:
    """The client's id of a request where it is well-formed, else a new one."""
    return given if given is not None and REQUEST_ID.fullmatch(given) else uuid4().hex


def begin_request(given_id: str | None, traceparent: str | None) -> RequestLog:
    """Begin a request's log. The client's id and trace are taken where they are well-formed."""
    log = RequestLog(request_id(given_id), parse_traceparent(traceparent))
    _current.set(log)
    return log


def parse_traceparent(header: str | None) -> Trace | None:
    """A ``traceparent`` header's ids; None where it is not valid."""
    match = _TRACEPARENT.fullmatch(header or "")
    if match is None:
        return None
    number, trace_id, parent_id, more = match.groups()
    # Version ff is forbidden, version 00 ends here, and ids of zeros alone mean none.
    if number == "ff" or (number == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Trace(trace_id, parent_id)


class JsonFormatter(logging.Formatter):
    """A JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Everything beyond printable ASCII is escaped by JSON itself."""
        return json.dumps(_fields(record), default=str)


class TextFormatter(logging.Formatter):
    """A line for people; only a traceback has more, and those are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, then whatever else there is as name=value."""
        fields = _fields(record)
        error = fields.pop("error", None)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger", "message"))
        line = _escape(" ".join((head, *(f"{name}={value}" for name, value in fields.items()))))
        if error is None:
            return line
        return "\n    ".join((line, *(_escape(part) for part in str(error).splitlines())))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Any] = {
        "time": time.replace("+00:00", "Z"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
    }
    log = _current.get()
    if log is not None:
        fields["request_id"] = log.id
        if log.trace is not None:
            fields |= log.trace._asdict()
    fields |= getattr(record, "fields", {})
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return fields


def _escape(text: str) -> str:
    r"""The same in printable ASCII: an escape sequence of a terminal, say, becomes \x1b."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def config(form: Literal["text", "json"]) -> dict[str, Any]:
    """For ``logging.config.dictConfig``: all of it, also from libraries, goes to standard error in one form."""
    formatter = JsonFormatter if form == "json" else TextFormatter
    told = {"level": "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"form": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "form"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        # Uvicorn's own line for each request is replaced by ours, which has the ids.
        "loggers": {"secondlook": told, "uvicorn": told, "uvicorn.access": {"level": "WARNING"}},
    }

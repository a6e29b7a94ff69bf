"""RFC 9457 problem documents: the one place where an exception becomes an HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from model.errors import ImageError, ImageTooLargeError, ParameterError, SecondlookError
from service import errors
from service.logs import request_log

MEDIA_TYPE = "application/problem+json"
SHOWN = 200
"""Characters of a client's text that an answer repeats."""


class Kind(Enum):
    """Status and title of each type of problem; the type's address is made from the name and stays as it is."""

    UNDECODABLE_IMAGE = 400, "The image cannot be decoded"
    MALFORMED_REQUEST = 400, "The request is malformed"
    KEY_MISSING = 401, "A key is required"
    KEY_REFUSED = 403, "The key is refused"
    ADMIN_DISABLED = 403, "Admin calls are disabled"
    NOT_FOUND = 404, "Not found"
    METHOD_NOT_ALLOWED = 405, "The method is not allowed here"
    TOO_SLOWLY_SENT = 408, "The request came too slowly"
    REBUILD_RUNNING = 409, "A rebuild is already running"
    BUNDLES_READ_ONLY = 409, "The bundles cannot be changed"
    BUNDLE_REFUSED = 409, "The bundle is refused"
    TOO_MANY_BYTES = 413, "Too many bytes"
    TOO_MANY_PIXELS = 413, "Too many pixels"
    TOO_MANY_FILES = 413, "Too many files"
    UNSUPPORTED_MEDIA_TYPE = 415, "Not an image type"
    INVALID_PARAMETER = 422, "A parameter is wrong"
    MISSING_FILE = 422, "No image was sent"
    QUEUE_FULL = 429, "Too many images are waiting"
    HEADERS_TOO_LARGE = 431, "The headers are too large"
    INTERNAL = 500, "The server failed"
    NOT_READY = 503, "Not ready"
    TOO_SLOW = 503, "The answer took too long"

    def __init__(self, status: int, title: str) -> None:
        self.status, self.title = status, title

    @property
    def slug(self) -> str:
        """Its name in the type's address, in metrics and in logs."""
        return self.name.lower().replace("_", "-")

    @property
    def urn(self) -> str:
        """The problem's type."""
        return "urn:secondlook:problem:" + self.slug


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(examples=[Kind.UNDECODABLE_IMAGE.urn])
    title: str = Field(examples=[Kind.UNDECODABLE_IMAGE.title])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["cat.png: the image is damaged or cut short."])
    filename: str | None = None


class ProblemError(HTTPException):
    """A problem on its way to the client.

    It is an ``HTTPException`` because FastAPI turns any other error raised while it reads a body into a 400.
    """

    def __init__(
        self, kind: Kind, detail: str, *, filename: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(kind.status, detail, headers)
        self.kind, self.filename = kind, filename

    @property
    def problem(self) -> Problem:
        """The document."""
        return Problem(
            type=self.kind.urn,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            filename=self.filename,
        )

    def response(self) -> JSONResponse:
        """The document as an answer, which the request's line in the log names."""
        request_log().problem = self.kind
        content = self.problem.model_dump(exclude_none=True)
        return JSONResponse(content, self.kind.status, headers=self.headers, media_type=MEDIA_TYPE)


def clean(text: str) -> str:
    """A client's text, fit to be shown: at most 200 characters, anything that does not print replaced."""
    shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return "".join(char if char.isprintable() else "\ufffd" for char in shown)


def to_problem(error: Exception) -> ProblemError:
    """What a client is told of an error. Text that is not meant for clients does not get through."""
    sentence = _sentence(str(error))
    match error:
        case ProblemError():
            return error
        case ImageTooLargeError():
            return ProblemError(Kind.TOO_MANY_PIXELS, sentence)
        case ImageError():
            return ProblemError(Kind.UNDECODABLE_IMAGE, sentence)
        case ParameterError():
            return ProblemError(Kind.INVALID_PARAMETER, sentence)
        case errors.QueueFullError():
            return ProblemError(Kind.QUEUE_FULL, sentence, headers={"Retry-After": str(error.retry_after_s)})
        case errors.UnavailableError() | errors.SizeChangedError():
            return ProblemError(Kind.NOT_READY, sentence, headers={"Retry-After": "5"})
        case errors.ReadOnlyError():
            return ProblemError(Kind.BUNDLES_READ_ONLY, sentence)
        case errors.UnknownGenerationError() | errors.UnknownJobError():
            return ProblemError(Kind.NOT_FOUND, sentence)
        case errors.RebuildRunningError():
            return ProblemError(Kind.REBUILD_RUNNING, sentence)
    return ProblemError(Kind.INTERNAL, "The server failed on this request; its log says why.")


def of_image(error: Exception, filename: str | None) -> ProblemError:
    """The same for an error of one image, naming its file."""
    known = to_problem(error)
    detail = f"{filename or 'The image'}: {known.detail}"
    return ProblemError(known.kind, detail, filename=filename, headers=known.headers)


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route, for OpenAPI."""
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        titles.setdefault(kind.status, []).append(kind.title)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "; ".join(of_status), "content": content} for status, of_status in titles.items()}


def install(app: FastAPI) -> None:
    """Answer every error that a route or the router raises with a problem document."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return to_problem(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return ProblemError(Kind.MALFORMED_REQUEST, "The body is not JSON.").response()
        # ("query", "top"), ("path", "entry_id"), ("body", "dataset"), or ("body",) where all of it is wrong.
        where, *names = (str(part) for part in first["loc"])
        name = clean(names[0]) if names else f"The {where}"
        reason = clean(str(first.get("ctx", {}).get("error") or first["msg"]))
        return ProblemError(Kind.INVALID_PARAMETER, f"{name}: {_sentence(reason)}").response()

    async def from_router(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, ProblemError):
            return error.response()
        method, path = clean(request.method), clean(request.url.path)
        if error.status_code == 404:
            problem = ProblemError(Kind.NOT_FOUND, f"There is nothing at {path}: /docs lists all calls.")
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "listed in /docs")
            detail = f"{method} is not allowed at {path}: allowed is {allowed}."
            problem = ProblemError(Kind.METHOD_NOT_ALLOWED, detail, headers=error.headers)
        else:
            problem = ProblemError(Kind.MALFORMED_REQUEST, "The request cannot be read: /docs says what is expected.")
        return problem.response()

    app.add_exception_handler(SecondlookError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, from_router)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "…")) else text + "."

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

from model.errors import (
    ImageError,
    ImageTooLargeError,
    JournalError,
    JournalFullError,
    LabelTakenError,
    ParameterError,
    RepeatedRequestError,
    SecondlookError,
    StoreAwayError,
    TaughtLimitError,
)
from service import errors
from service.logs import request_log

MEDIA_TYPE = "application/problem+json"
SHOWN = 200
"""Characters of a client's text that an answer repeats."""


class Kind(Enum):
    """Status, title and an example of each type of problem; its address is made from the name and stays as it is."""

    UNDECODABLE_IMAGE = (
        400,
        "The image cannot be decoded",
        "cat.png: the image is damaged or cut short.",
    )
    MALFORMED_REQUEST = (
        400,
        "The request is malformed",
        "The body is not JSON.",
    )
    KEY_MISSING = (
        401,
        "A key is required",
        "This call needs an admin key: send it as Authorization: Bearer KEY.",
    )
    KEY_REFUSED = (
        403,
        "The key is refused",
        "The key is wrong.",
    )
    ADMIN_DISABLED = (
        403,
        "Admin calls are disabled",
        "This server has no admin key: set SECONDLOOK_ADMIN_KEY and restart it.",
    )
    NOT_FOUND = (
        404,
        "Not found",
        "There is nothing at /nothing: /docs lists all calls.",
    )
    METHOD_NOT_ALLOWED = (
        405,
        "The method is not allowed here",
        "PUT is not allowed at /v1/model: allowed is GET.",
    )
    TOO_SLOWLY_SENT = (
        408,
        "The request came too slowly",
        "The body did not arrive within 60 s: send less at once, or over a faster connection.",
    )
    REBUILD_RUNNING = (
        409,
        "A rebuild is already running",
        "Job 5f0c2b9d41a7e386 is running: wait for it, or cancel it.",
    )
    BUNDLES_READ_ONLY = (
        409,
        "The bundles cannot be changed",
        "The default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart.",
    )
    GENERATION_CHANGED = (
        409,
        "Another generation answers",
        "Generation 20261122T101500Z-3f9c does not answer any more: an entry's id may be another image's now.",
    )
    LABEL_LIKE_ANOTHER = (
        409,
        "The label is like a known one",
        "label: it differs from cat only in how it is written: give that one, or another name.",
    )
    TOO_MANY_TAUGHT = (
        409,
        "Too many images were taught",
        "50,000 taught images are kept, at most 50,000 are accepted: remove some.",
    )
    BUNDLE_REFUSED = (
        409,
        "The bundle is refused",
        "SECONDLOOK_BUNDLES/20261122T101500Z-3f9c/values.npy is missing.",
    )
    TOO_MANY_BYTES = (
        413,
        "Too many bytes",
        "The request has more than 67,108,864 bytes, which this call takes at most: send less at once.",
    )
    TOO_MANY_PIXELS = (
        413,
        "Too many pixels",
        "cat.png: the image has more pixels than 64,000,000.",
    )
    TOO_MANY_FILES = (
        413,
        "Too many files",
        "The request has more than 64 files: send them in several requests.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Not an image type",
        "The content type is text/plain: send multipart/form-data with the field file.",
    )
    INVALID_PARAMETER = (
        422,
        "A parameter is wrong",
        "top: Input should be less than or equal to 1000.",
    )
    MISSING_FILE = (
        422,
        "No image was sent",
        "The request has no image: send one or more in the field file.",
    )
    IDEMPOTENCY_KEY_REUSED = (
        422,
        "The Idempotency-Key was used before",
        "The Idempotency-Key was used for other images or another label: give each request its own.",
    )
    QUEUE_FULL = (
        429,
        "Too many images are waiting",
        "512 images are being received or answered already: try again in 2 s.",
    )
    HEADERS_TOO_LARGE = (
        431,
        "The headers are too large",
        "The headers have more than 65,536 bytes: send fewer or shorter ones.",
    )
    INTERNAL = (
        500,
        "The server failed",
        "The server failed on this request; its log says why.",
    )
    NOT_READY = (
        503,
        "Not ready",
        "The server does not compute answers now: try again later.",
    )
    DISK_FULL = (
        507,
        "The disk is full",
        "There is no room to keep what was sent: nothing of it was kept.",
    )
    NOT_KEPT = (
        503,
        "What was sent cannot be kept",
        "taught.sqlite cannot be used: attempt to write a readonly database.",
    )
    TOO_SLOW = (
        503,
        "The answer took too long",
        "No answer within 30 s: try again later, or send fewer images.",
    )

    def __init__(self, status: int, title: str, example: str) -> None:
        self.status, self.title, self.example = status, title, example

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
    known: str | None = Field(None, description="The label that the one given is like.")


class ProblemError(HTTPException):
    """A problem on its way to the client.

    It is an ``HTTPException`` because FastAPI turns any other error raised while it reads a body into a 400.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        filename: str | None = None,
        known: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind.status, detail, headers)
        self.kind, self.filename, self.known = kind, filename, known

    @property
    def problem(self) -> Problem:
        """The document."""
        return Problem(
            type=self.kind.urn,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            filename=self.filename,
            known=self.known,
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
        case LabelTakenError():
            return ProblemError(Kind.LABEL_LIKE_ANOTHER, sentence, known=error.known)
        case TaughtLimitError():
            return ProblemError(Kind.TOO_MANY_TAUGHT, sentence)
        case RepeatedRequestError():
            return ProblemError(Kind.IDEMPOTENCY_KEY_REUSED, sentence)
        case JournalFullError():
            return ProblemError(Kind.DISK_FULL, Kind.DISK_FULL.example)
        case JournalError():
            return ProblemError(Kind.NOT_KEPT, sentence)
        case ParameterError():
            return ProblemError(Kind.INVALID_PARAMETER, sentence)
        case errors.QueueFullError():
            return ProblemError(Kind.QUEUE_FULL, sentence, headers={"Retry-After": str(error.retry_after_s)})
        case StoreAwayError():  # its sentence names an address
            return ProblemError(
                Kind.NOT_READY, "The cache cannot be asked now: try again later.", headers={"Retry-After": "1"}
            )
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


def of_validation(first: Mapping[str, Any], *_: Mapping[str, Any]) -> ProblemError:
    """Pydantic's first error in what a call was given."""
    if first["type"] == "json_invalid":
        return ProblemError(Kind.MALFORMED_REQUEST, "The body is not JSON.")
    # ("query", "top"), ("path", "entry_id"), ("body", "dataset"), or ("body",) where all of it is wrong.
    where, *names = (str(part) for part in first["loc"])
    name = clean(names[0]) if names else f"The {where}"
    reason = clean(str(first.get("ctx", {}).get("error") or first["msg"]))
    return ProblemError(Kind.INVALID_PARAMETER, f"{name}: {_sentence(reason)}")


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route, for OpenAPI."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": "; ".join(kind.title for kind in of_status),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": {kind.slug: _example(kind) for kind in of_status}}},
        }
        for status, of_status in by_status.items()
    }


def table() -> str:
    """All types, as Markdown, for the description of the whole."""
    rows = [f"| `{kind.urn}` | {kind.status} | {kind.title} |" for kind in Kind]
    return "\n".join(("| type of problem | status | title |", "|---|---|---|", *rows))


def _example(kind: Kind) -> dict[str, Any]:
    problem = ProblemError(kind, kind.example).problem
    return {"summary": kind.title, "value": problem.model_dump(exclude_none=True)}


EVERYWHERE = documented(
    Kind.MALFORMED_REQUEST,
    Kind.TOO_SLOWLY_SENT,
    Kind.TOO_MANY_BYTES,
    Kind.HEADERS_TOO_LARGE,
    Kind.INTERNAL,
    Kind.NOT_READY,
)
"""What any call may be answered, before it is looked at or because the server fails or stops."""


def install(app: FastAPI) -> None:
    """Answer every error that a route or the router raises with a problem document."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return to_problem(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return of_validation(*error.errors()).response()

    async def from_router(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, ProblemError):
            return error.response()
        method, path = clean(request.method), clean(request.url.path)
        if error.status_code == 404:
            problem = ProblemError(Kind.NOT_FOUND, f"There is nothing at {path}: /docs lists all calls.")
        elif error.status_code == 405:
            # The router names the methods of the first route of that path; a path may have several.
            calls = app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None))
            first = (error.headers or {}).get("Allow", "GET")  # of a page, which OpenAPI leaves out
            allowed = ", ".join(sorted(call.upper() for call in calls)) if calls else first
            detail = f"{method} is not allowed at {path}: allowed is {allowed}."
            problem = ProblemError(Kind.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
        else:
            problem = ProblemError(Kind.MALFORMED_REQUEST, "The request cannot be read: /docs says what is expected.")
        return problem.response()

    app.add_exception_handler(SecondlookError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, from_router)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "…")) else text + "."

"""RFC 9457 problem documents: the one place where an exception becomes an HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from secondlook.model.errors import (
    AddedLimitError,
    ImageError,
    ImageTooLargeError,
    ImageTooSlowError,
    JournalError,
    JournalFullError,
    LabelTakenError,
    NothingTaughtError,
    ParameterError,
    RepeatedRequestError,
    SecondlookError,
    StoreError,
    StoreUnreachableError,
)
from secondlook.service import errors
from secondlook.service.kinds import Kind as Kind
from secondlook.service.logs import request_log
from secondlook.service.shortage import is_passing

MEDIA_TYPE = "application/problem+json"
SHOWN = 200
"""Characters of a client's text that an answer repeats."""


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
        case ImageTooSlowError():
            return ProblemError(Kind.IMAGE_TOO_SLOW, sentence)
        case ImageError():
            return ProblemError(Kind.UNDECODABLE_IMAGE, sentence)
        case LabelTakenError():
            return ProblemError(Kind.LABEL_LIKE_ANOTHER, sentence, known=error.known)
        case NothingTaughtError():
            return ProblemError(Kind.NOTHING_TAUGHT, sentence)
        case AddedLimitError():
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
        case StoreUnreachableError() | StoreError():  # their sentences name an address
            return ProblemError(
                Kind.NOT_READY, "The cache cannot be asked now: try again later.", headers={"Retry-After": "1"}
            )
        case errors.UnavailableError() | errors.GeometryChangedError():
            return ProblemError(Kind.NOT_READY, sentence, headers={"Retry-After": "5"})
        case errors.ReadOnlyError():
            return ProblemError(Kind.BUNDLES_READ_ONLY, sentence)
        case errors.UnknownGenerationError() | errors.UnknownJobError():
            return ProblemError(Kind.NOT_FOUND, sentence)
        case errors.RebuildRunningError():
            return ProblemError(Kind.REBUILD_RUNNING, sentence)
    if is_passing(error):
        return ProblemError(
            Kind.NOT_READY,
            "The server is short of memory, of open files, or cannot reach its disk: try again in a moment.",
            headers={"Retry-After": "5"},
        )
    return ProblemError(Kind.INTERNAL, "The server failed on this request; its log says why.")


def of_image(error: Exception, filename: str | None) -> ProblemError:
    """The same for an error of one image, naming its file."""
    known = to_problem(error)
    detail = f"{filename or 'The image'}: {known.detail}"
    return ProblemError(known.kind, detail, filename=filename, headers=known.headers)


def of_validation(first: Mapping[str, Any], *_: Mapping[str, Any], known: tuple[str, ...] = ()) -> ProblemError:
    """Pydantic's first error in what a call was given; ``known`` are the fields that its body may have."""
    if first["type"] == "json_invalid":
        return ProblemError(Kind.MALFORMED_REQUEST, "The body is not JSON.")
    # ("query", "top"), ("path", "entry_id"), ("body", "dataset"), or ("body",) where all of it is wrong.
    where, *names = (str(part) for part in first["loc"])
    name = clean(names[0]) if names else f"The {where}"
    if first["type"] == "extra_forbidden":
        return ProblemError(
            Kind.INVALID_PARAMETER, _sentence(f"{name}: there is no such field{likely(str(names[-1]), known)}")
        )
    reason = clean(str(first.get("ctx", {}).get("error") or first["msg"]))
    return ProblemError(Kind.INVALID_PARAMETER, f"{name}: {_sentence(reason)}")


def compressed(header: str, coding: bytes) -> ProblemError:
    """The refusal of a body that is not sent as it is."""
    return ProblemError(
        Kind.COMPRESSED_BODY,
        f"The body is compressed or coded ({header}: {clean(coding.decode('latin-1'))}): send it as it is.",
        headers={"Accept-Encoding": "identity"},
    )


def likely(name: str, known: Sequence[str]) -> str:
    """The end of a sentence on a name that is unknown: which one was meant, or which there are."""
    if not known:
        return ": there are none here"
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f": {close[0]} is the likely one" if close else f": there are {', '.join(known)}"


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
    Kind.COMPRESSED_BODY,
    Kind.HOST_NOT_SERVED,
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
        return of_validation(*error.errors(), known=app.state.known_parameters.of_body(request.scope)).response()

    async def from_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, ProblemError):
            return error.response()
        method, path = clean(request.method), clean(request.url.path)
        if error.status_code == 404:
            problem = ProblemError(Kind.NOT_FOUND, f"There is nothing at {path}: /docs lists all calls.")
        elif error.status_code == 405:
            # The router names the methods of the first route of that path; a path may have several.
            calls = app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None), ("get",))
            methods = {call.upper() for call in calls} | {"OPTIONS"}
            allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
            if method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": allowed})
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

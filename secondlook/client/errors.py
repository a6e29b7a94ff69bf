"""What can go wrong in talking to a server, as one family.

::

    ClientError
    ├── UnreachableError         no answer: no server there, a broken connection, or too slow
    ├── UnexpectedAnswerError    an answer that no secondlook server gives
    ├── ImageReadError           an image that cannot be read here
    ├── ListingError             another generation took over while its entries were listed
    ├── JobError                 a rebuild that failed or was cancelled; beside ``Job``, which it carries
    └── ProblemError             the server's problem document (RFC 9457)
        ├── KeyRefusedError      401, 403: no key, or one that does not open this call
        ├── NotFoundError        404
        ├── ConflictError        409: what the call asks for does not fit what is there
        └── BusyError            429, 503: asked again until the time for that was over
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = "urn:secondlook:problem:"


class ClientError(Exception):
    """Base of all that a ``Client`` raises, but for ValueError and TypeError on arguments that cannot be sent."""


class UnreachableError(ClientError):
    """The server did not answer."""


class UnexpectedAnswerError(ClientError):
    """What answered is no secondlook server, or one of another version."""


class ImageReadError(ClientError):
    """An image cannot be read on this side."""


class ListingError(ClientError):
    """The ids listed so far may mean other images now: list anew."""


class ProblemError(ClientError):
    """The server says what is wrong. The message is the document's ``detail``."""

    def __init__(
        self, problem: Mapping[str, Any], *, retry_after: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "the server gives no reason"))
        self.problem = dict(problem)
        """The whole document."""
        self.type = str(problem.get("type", "about:blank"))
        """Stable: ``urn:secondlook:problem:undecodable-image``, say."""
        self.status = int(problem.get("status", 0))
        self.title = str(problem.get("title", ""))
        self.detail = str(self)
        self.filename: str | None = problem.get("filename")
        """Of the image that the problem is about; None where it is about the whole call."""
        self.known: str | None = problem.get("known")
        """The label that a refused one is like."""
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again."""
        self.request_id = request_id
        """By which the server's log names the call."""

    @property
    def slug(self) -> str:
        """The type's last word: ``undecodable-image``."""
        return self.type.removeprefix(TYPES)


class KeyRefusedError(ProblemError):
    """The call needs a key, or another one."""


class NotFoundError(ProblemError):
    """There is no such thing."""


class ConflictError(ProblemError):
    """What is asked for does not fit what is there."""


class BusyError(ProblemError):
    """The server has too much to do, or is about to stop."""


_BY_STATUS = {
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NotFoundError,
    409: ConflictError,
    429: BusyError,
    503: BusyError,
}


def problem_error(
    problem: Mapping[str, Any], *, retry_after: float | None = None, request_id: str | None = None
) -> ProblemError:
    """Make the member of the family that a document belongs to."""
    kind = _BY_STATUS.get(problem.get("status", 0), ProblemError)
    return kind(problem, retry_after=retry_after, request_id=request_id)

"""Who may call what: admin keys for changes, and predict keys for predictions where there are any."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from secondlook.service.http.keys import Key, Keys
from secondlook.service.logs import request_log
from secondlook.service.problems import Kind, ProblemError

SCHEME = "HTTPBearer"
_bearer = HTTPBearer(
    scheme_name=SCHEME,
    auto_error=False,
    description="The server's `SECONDLOOK_ADMIN_KEY`, or a key of its `SECONDLOOK_KEYS_FILE`.",
)
OPTIONAL: dict[str, object] = {"security": [{}, {SCHEME: []}]}
"""OpenAPI's words for a call that needs a key on some servers."""


# Asynchronous although they await nothing: otherwise each would cost a thread's turn.
async def require_admin(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Key:
    """Refuse a call without an admin key; whose it is.

    Raises:
        ProblemError: 401 where no key was sent, 403 where it opens nothing here or the server has none.
    """
    keys: Keys = request.app.state.keys
    require_any_admin(keys)
    key = _known(keys, credentials.credentials if credentials else "", "an admin key")
    if key.role != "admin":
        raise ProblemError(Kind.KEY_REFUSED, "This key is for predictions: this call needs an admin key.")
    return key


def require_any_admin(keys: Keys) -> None:
    """Refuse what needs an admin key where there is none.

    Raises:
        ProblemError: 403; there is none.
    """
    if not keys.any_admin:
        raise ProblemError(
            Kind.ADMIN_DISABLED,
            "This server has no admin key: set SECONDLOOK_ADMIN_KEY or SECONDLOOK_KEYS_FILE and restart it.",
        )


async def require_predict(request: Request) -> Key | None:
    """Refuse a prediction without a key where the server has predict keys; whose it is, None where none is needed.

    Raises:
        ProblemError: 401 where no key was sent, 403 where it opens nothing here.
    """
    keys: Keys = request.app.state.keys
    if not keys.predictions_need_key:
        return None
    scheme, sent = get_authorization_scheme_param(request.headers.get("authorization"))
    return _known(keys, sent if scheme.lower() == "bearer" else "", "a key")


def _known(keys: Keys, sent: str, needed: str) -> Key:
    if not sent:
        raise ProblemError(
            Kind.KEY_MISSING,
            f"This call needs {needed}: send it as Authorization: Bearer KEY.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    # Header bytes reach us as latin-1.
    key = keys.find(sent.encode("latin-1"))
    if key is None:
        raise ProblemError(Kind.KEY_REFUSED, "The key is wrong.")
    request_log().key = key.name
    return key

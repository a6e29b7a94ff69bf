"""The admin key."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.problems import Kind, ProblemError
from service.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="The server's `SECONDLOOK_ADMIN_KEY`.")


def require_admin(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refuse a call without the admin key.

    Raises:
        ProblemError: 401 where no key was sent, 403 where it is wrong or the server has none.
    """
    settings: Settings = request.app.state.settings
    if settings.admin_key is None:
        raise ProblemError(
            Kind.ADMIN_DISABLED, "This server has no admin key: set SECONDLOOK_ADMIN_KEY and restart it."
        )
    if credentials is None or not credentials.credentials:
        raise ProblemError(
            Kind.KEY_MISSING,
            "This call needs the admin key: send it as Authorization: Bearer KEY.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    # Header bytes reach us as latin-1. Hashed first, the comparison does not show the key's length either.
    sent, expected = credentials.credentials.encode("latin-1"), settings.admin_key.get_secret_value().encode()
    if not hmac.compare_digest(sha256(sent).digest(), sha256(expected).digest()):
        raise ProblemError(Kind.KEY_REFUSED, "The admin key is wrong.")

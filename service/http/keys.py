"""The keys that open calls: named, hashed, several, from a file that is read again when it changes.

The hash is plain SHA-256: a key is 256 random bits, not a password, so there is nothing for a slow hash to slow down.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from secondlook.service.errors import KeysError
from secondlook.service.settings import Settings

logger = logging.getLogger(__name__)

Role = Literal["admin", "predict"]
"""What a key opens: everything, or predictions."""
NAME_RULE = "a name is letters, digits and ._-, at most 64 of them, the first a letter or digit"
FROM_ENVIRONMENT = "SECONDLOOK_ADMIN_KEY"
"""The name of the one key that has no line in the file."""
LOOK_SECONDS = 2.0
"""How old, at most, what is known of the file is: a key that was removed opens nothing after that."""


class Key(NamedTuple):
    """One key, as a line of the file says it."""

    name: str
    role: Role
    digest: bytes
    """SHA-256 of the key."""

    @property
    def line(self) -> str:
        """Its line in the file."""
        return f"{self.name} {self.role} {self.digest.hex()}"


def is_name(name: str) -> bool:
    """Whether a key may be called so. The environment's own key keeps its name to itself."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None and name != FROM_ENVIRONMENT


def new_key(name: str, role: Role) -> tuple[str, Key]:
    """A random key, and what is kept of it."""
    # The prefix lets scanners for leaked secrets know it, and keeps a leading hyphen off command lines.
    secret = f"slk_{secrets.token_urlsafe(32)}"
    return secret, Key(name, role, sha256(secret.encode()).digest())


def read_keys(path: Path) -> list[Key]:
    """The keys of a file: a line ``name role sha256`` for each; empty lines and those that begin with # are skipped.

    Raises:
        KeysError: says which line is wrong, and how.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KeysError(f"the file of keys {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(f"the file of keys {path} is not text") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match line.split():
            case [name, "admin" | "predict" as role, digest] if re.fullmatch("[0-9a-fA-F]{64}", digest):
                if not is_name(name):
                    raise KeysError(f"{path}, line {number}: {NAME_RULE}")
                if name in keys:
                    raise KeysError(f"{path}, line {number}: the name {name} is used twice")
                keys[name] = Key(name, role, bytes.fromhex(digest))
            case _:
                # The line itself is not repeated: it may be a key that was pasted in plain.
                roles = " or ".join(get_args(Role))
                raise KeysError(f"{path}, line {number}: a line is a name, {roles}, and 64 hexadecimal digits")
    return list(keys.values())


class Keys:
    """All keys of a server: that of the environment and those of the file."""

    def __init__(self, settings: Settings) -> None:
        """Read the file.

        Raises:
            KeysError: it is wrong.
        """
        self._own: list[Key] = []
        if settings.admin_key is not None:
            digest = sha256(settings.admin_key.get_secret_value().encode()).digest()
            self._own.append(Key(FROM_ENVIRONMENT, "admin", digest))
        self._path = settings.keys_file
        self._read: list[Key] = []
        self._seen: tuple[int, ...] | None = None
        self._complaint = ""
        self._looked = time.monotonic()
        if self._path is not None:
            self._seen = _mark(self._path)
            self._read = read_keys(self._path)
        self._predictions_need_key = self._has_predict()

    @property
    def predictions_need_key(self) -> bool:
        """Whether predictions need a key: once a predict key was there, until the server is restarted.

        An editor that empties the file before it fills it anew must not open them for a moment.
        """
        self._look()
        return self._predictions_need_key

    @property
    def any_admin(self) -> bool:
        """Whether there is an admin key."""
        self._look()
        return any(key.role == "admin" for key in (*self._own, *self._read))

    def find(self, sent: bytes) -> Key | None:
        """Whose key this is, in a time that says nothing of the keys."""
        self._look()
        # Hashed first, the comparison does not show the key's length either; it never ends early.
        digest, found = sha256(sent).digest(), None
        for key in (*self._own, *self._read):
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def _has_predict(self) -> bool:
        return any(key.role == "predict" for key in self._read)

    def _look(self) -> None:
        """Read the file again if it changed; one that is wrong now changes nothing, and the log says so."""
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        mark = _mark(self._path)
        if mark == self._seen:
            return
        try:
            self._read = read_keys(self._path)
        except KeysError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("%s; the keys stay as they were", error)
            return  # and it is read again at the next look
        self._seen, self._complaint = mark, ""
        self._predictions_need_key |= self._has_predict()
        logger.info("the file of keys was read again: %d keys", len(self._read))


def _mark(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's content; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""Where a user's bundles lie who named no folder for them, and the key that opens servers of them.

::

    ~/.local/share/secondlook/          or below XDG_DATA_HOME, or where the system keeps users' data; 0700
                              key       of a server that was started by hand with nothing set; 0600
                              default/  that server's root (model.bundles.root)
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

from secondlook.model.bundles.locks import fsync, root_lock
from secondlook.model.errors import HomeError

KEY = "key"
_KEY = re.compile(r"[A-Za-z0-9_-]{20,200}")


def bundles_home() -> Path:
    """The folder of this user's bundles, absolute; it may not be there yet.

    Raises:
        HomeError: this user has no home, and no variable names one; or its name is not UTF-8.
    """
    try:
        home = platformdirs.user_data_path("secondlook", appauthor=False)
    except RuntimeError:
        home = Path()
    if not home.is_absolute():  # older ones of that package give "~/…" instead
        raise HomeError("this user has no home folder: set XDG_DATA_HOME to a folder for data")
    try:
        str(home).encode()
    except UnicodeEncodeError:  # FAISS could not read an index there
        raise HomeError(f"the name of {home} is not UTF-8: set XDG_DATA_HOME to a folder whose name is") from None
    return home


def made_home() -> Path:
    """The same, made where it is not there yet, and nobody else's to change.

    Raises:
        HomeError: it cannot be made, or others may change what is in it.
    """
    home = bundles_home()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.stat()
    except OSError as error:
        raise HomeError(f"{home} cannot be made: {error.strerror}") from error
    if found.st_uid != os.geteuid():
        raise HomeError(f"{home} belongs to another user: set XDG_DATA_HOME to a folder of your own")
    if found.st_mode & 0o022:
        raise HomeError(f"others may change what is in {home}: take that from them (chmod 700 {home})")
    return home


def local_key() -> str:
    """The key of this user's own servers on this machine: made the first time, and the same ever after.

    Several first times at once give one key. It is letters, digits, ``_`` and ``-``.

    Raises:
        HomeError: it cannot be read or kept; or it is no secret, as others may read it or own it.
    """
    path = made_home() / KEY
    try:
        key = _read(path)
        if key is None:
            with root_lock(path.parent):  # two servers that start for the first time have one key
                key = _read(path) or _write(path)
    except OSError as error:
        raise HomeError(f"{path} cannot be read or written: {error.strerror}") from error
    return key


def _read(path: Path) -> str | None:
    """What a file of a key holds; None where it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink():
            raise HomeError(f"{path} is a link: remove it, and the next start makes a key") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise HomeError(f"{path} is no file: remove it, and the next start makes a key")
        if found.st_uid != os.geteuid():
            raise HomeError(f"{path} belongs to another user: remove it, and the next start makes a key")
        if found.st_mode & 0o077:
            raise HomeError(f"others may read {path}, and know the key: remove it, and the next start makes one")
        key = os.read(descriptor, 4096).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if not _KEY.fullmatch(key):
        raise HomeError(f"{path} does not hold a key: remove it, and the next start makes one")
    return key


def _write(path: Path) -> str:
    """A new key, kept before it is given."""
    for litter in path.parent.glob(f".{KEY}.*"):  # of one that was killed while it did this
        litter.unlink(missing_ok=True)
    # The prefix lets scanners for leaked secrets know it.
    key = f"slk_{secrets.token_urlsafe(32)}"
    temporary = path.parent / f".{KEY}.{secrets.token_hex(4)}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{key}\n")
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    return key

"""The page opened in its user's browser, where its address has a key in it.

Whoever uses this machine can list the command lines of its processes, the browser's too. So the browser is told a file
that its user alone can read, and that leads to the page.
"""

from __future__ import annotations

import html
import os
import secrets
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from secondlook.model.bundles.home import made_home
from secondlook.model.errors import HomeError

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={link}">
<title>secondlook</title>
<p><a href="{link}">secondlook</a></p>
"""


class Browser:
    """Opens a page; until its context ends, what leads there is kept."""

    def __init__(self) -> None:
        self._file: Path | None = None

    def open(self, address: str, link: str) -> None:
        """Open the page at an address, or at the link to it that has a key. Returns at once."""
        shown = address
        if link != address:
            # Where the file cannot be written, the page asks for the key, which the terminal shows.
            with suppress(OSError, HomeError):
                self._file = _written(link)
                shown = self._file.as_uri()
        threading.Thread(target=webbrowser.open, args=(shown,), name="browser", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()


def _written(link: str) -> Path:
    """A file in the user's home that leads to a link; one a port, so that those of killed servers do not pile up."""
    home = made_home()
    path = home / f"open-{urlsplit(link).port or 80}.html"
    temporary = home / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(_PAGE.format(link=html.escape(link)))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    return path

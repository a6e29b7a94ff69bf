"""Images that are taught, and what a journal says of changes."""

from typing import Any

import numpy as np

from secondlook.model.journal import Journal, NewImage

KEY = np.arange(4, dtype=np.float32)


def image(content: bytes = b"bytes", encoder: str = "") -> NewImage:
    return NewImage("a.png", content, {(encoder, False): KEY} if encoder else {})


def told(journal: Journal, change: int = 0) -> tuple[Any, ...]:
    """What changed, without the token."""
    token = token_of(journal, change)
    changed = journal.since(change, token)
    assert not changed.is_anew
    return changed.change, changed.images, changed.corrections, changed.labels


def token_of(journal: Journal, change: int) -> bytes:
    with journal._file.reading() as read:
        return bytes(read("SELECT token FROM changes WHERE number = ?", change)[0][0]) if read and change else b""

"""Follows a root's journal, so that each answer knows what any process acknowledged before it was asked for.

Whatever asks, asks a file's stamp first, which costs microseconds (``Journal.stamp``). Only where that is another one
is the journal read: by the thread that computes, which alone runs the engine, between two batches. So what was
acknowledged by any process is known to each answer that was asked for after it, and nobody has to be told.
"""

from __future__ import annotations

import time
import weakref

from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import Decode, replayed
from secondlook.model.answering.predictor import Predictor
from secondlook.model.errors import JournalError
from secondlook.model.images import decode
from secondlook.model.journal import Journal, Stamp

EMBED_SECONDS = 0.25
"""Time between two batches in which added images without keys are embedded; the others wait for the next."""
READ_SECONDS = 2.0
"""Time that a batch waits for a change being written; a disk that is stuck must not stop answers for longer."""
AGAIN_SECONDS = 5.0
"""Time from a failure to read the journal to the next try, unless its file changes."""


class JournalFollower:
    """One process's view of its root's journal; ``renew`` is called from one thread at a time."""

    def __init__(self, journal: Journal, decode: Decode = decode) -> None:
        self._journal, self._decode = journal, decode
        self._seen: tuple[weakref.ref[Overlay], Stamp | None] | None = None
        """An overlay, and the stamp of what is in it. Weak: a generation that was replaced is let go at once."""
        self._failed: tuple[str, Stamp | None, float] | None = None

    def is_current(self, overlay: Overlay) -> bool:
        """Whether an overlay has all that was acknowledged until now.

        Raises:
            JournalError: the journal cannot be looked at.
        """
        return self._is_seen(overlay, self._journal.stamp())

    def renew(self, predictor: Predictor, embeds: bool) -> Predictor:
        """A predictor with all that was acknowledged until now; itself where that is nothing new.

        ``embeds``: some images that wait for keys are embedded, although nothing is new.

        Raises:
            JournalError: the journal cannot be read.
        """
        overlay, stamp = predictor.overlay, self._journal.stamp()
        is_seen, is_behind = self._is_seen(overlay, stamp), bool(overlay.waiting)
        if is_seen and not (embeds and is_behind):
            return predictor
        if self._failed is not None and self._failed[1] == stamp and time.monotonic() < self._failed[2]:
            raise JournalError(self._failed[0])
        # Where many wait, none is embedded but for those who ask: predictions would wait for it each time.
        seconds = 0.0 if is_behind and not embeds else EMBED_SECONDS
        try:
            fresh = replayed(overlay, self._journal, seconds=seconds, wait=READ_SECONDS, decode=self._decode)
        except JournalError as error:
            self._failed = str(error), stamp, time.monotonic() + AGAIN_SECONDS
            raise
        self._failed, self._seen = None, (weakref.ref(fresh), stamp)
        return (
            predictor
            if fresh is overlay
            else Predictor(predictor.bundle, fresh, network_fallback=predictor.network_fallback)
        )

    def _is_seen(self, overlay: Overlay, stamp: Stamp | None) -> bool:
        if stamp is None or self._seen is None:
            return False
        seen, at = self._seen
        return seen() is overlay and at == stamp

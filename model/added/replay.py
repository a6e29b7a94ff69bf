"""Replays a journal's changes onto an overlay."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles.files import encoder_id
from secondlook.model.cache import Floats
from secondlook.model.errors import ImageError, JournalError
from secondlook.model.images import Geometry, Limits, decode
from secondlook.model.journal import ACCEPTED, BUSY_SECONDS, Changed, Journal

logger = logging.getLogger(__name__)

BATCH = 16
"""Images embedded at once."""
LOOKED_UP = 256
"""Images whose keys are asked for at once."""


Decode = Callable[[bytes, Geometry, Limits], NDArray[np.uint8]]
"""As ``model.images.decode``; a server's has it done by processes that can be ended."""


def replayed(
    overlay: Overlay,
    journal: Journal,
    *,
    seconds: float = math.inf,
    wait: float = BUSY_SECONDS,
    decode: Decode = decode,
) -> Overlay:
    """The overlay with the journal's changes since; itself where there are none.

    Where the journal is not the one that it was made of any more, or an older copy of that, it is made anew. Keys that
    are missing for this generation's encoder are made, for about so many seconds, and kept in the journal for others;
    images for which that was too short wait for the next call. ``wait`` is as for ``Journal.since``.

    The generation's engine runs in the calling thread: of those that answer with it, only one may call this.

    Raises:
        JournalError: the journal cannot be read.
    """
    changed = journal.since(overlay.change, overlay.token, wait)
    if changed.is_anew:
        overlay = Overlay(overlay.bundle)
    if changed.change != overlay.change:
        overlay = _with(overlay, changed, journal.keys(encoder_id(overlay.bundle.manifest), overlay.change, wait))
    return _embedded(overlay, journal, seconds, wait, decode) if overlay.waiting else overlay


def _copies(overlay: Overlay) -> tuple[bool, ...]:
    """Whether a copy is mirrored, for each that the generation keeps of an image."""
    return (False, True) if overlay.bundle.manifest.dataset.mirrored else (False,)


def _with(overlay: Overlay, changed: Changed, keys: Mapping[tuple[int, bool], Floats]) -> Overlay:
    own, copies = overlay.bundle.folded, _copies(overlay)
    images: dict[int, tuple[str, Mapping[bool, Floats]] | None] = {}
    for number, label in changed.images:
        if label is None or number in own:
            images[number] = None
            continue
        made = {mirrored: keys[number, mirrored] for mirrored in copies if (number, mirrored) in keys}
        images[number] = (label, made if len(made) == len(copies) else {})
    return overlay.changed(
        changed.change,
        changed.token,
        labels=changed.labels,
        images=images,
        corrections=dict(_corrections(overlay, changed)),
    )


def _corrections(overlay: Overlay, changed: Changed) -> Iterator[tuple[int, str | None]]:
    """Positions of the generation's own entries that were changed, with their labels now."""
    bundle = overlay.bundle
    for image in changed.images:
        for entry in bundle.folded.get(image.number, ()):
            yield entry.id, image.label
    labels = {c.source: c.label for c in changed.corrections if c.dataset == bundle.manifest.dataset.name}
    for entry in bundle.entries.of_sources(labels):
        yield entry.id, labels[entry.source]


def _embedded(overlay: Overlay, journal: Journal, seconds: float, wait: float, decode: Decode) -> Overlay:
    """The overlay with keys of images that had none, embedded until the seconds are over."""
    encoder, copies, engine = encoder_id(overlay.bundle.manifest), _copies(overlay), overlay.bundle.engine
    until = time.monotonic() + seconds
    waiting = sorted(overlay.waiting)
    for start in range(0, len(waiting), LOOKED_UP):
        some = waiting[start : start + LOOKED_UP]
        keys = journal.keys_of(encoder, some, wait)  # another server may have made them
        overlay = _with_keys(overlay, [n for n in some if all((n, mirrored) in keys for mirrored in copies)], keys)
        missing = deque(number for number in some if number in overlay.waiting)
        while missing and time.monotonic() < until:
            looked_at, images = _decoded(journal, missing, overlay.bundle.geometry, until, decode)
            made: dict[tuple[int, bool], Floats] = {}
            for mirrored in copies if images else ():
                stacked = np.stack([image[:, ::-1] if mirrored else image for image in images.values()])
                found = zip(images, engine.encode(stacked).keys, strict=True)
                made |= {(number, mirrored): key for number, key in found if np.isfinite(key).all()}
            if made:
                with suppress(JournalError):  # they are made again where they cannot be kept
                    journal.keep_keys(encoder, made, wait)
            overlay = _with_keys(overlay, looked_at, made)
        if time.monotonic() >= until:
            break
    return overlay


def _decoded(
    journal: Journal, missing: deque[int], geometry: Geometry, until: float, decode: Decode
) -> tuple[list[int], dict[int, NDArray[np.uint8]]]:
    """Take some images out of those that are missing, one at least: their numbers, and those that can be decoded."""
    looked_at: list[int] = []
    images: dict[int, NDArray[np.uint8]] = {}
    while missing and len(looked_at) < BATCH and not (looked_at and time.monotonic() >= until):
        number = missing.popleft()
        looked_at.append(number)
        content = journal.content(number)
        if content is None:  # removed meanwhile
            continue
        try:
            images[number] = decode(content, geometry, ACCEPTED)
        except ImageError as error:
            logger.error("taught image %d is left out: %s", number, error)
    return looked_at, images


def _with_keys(overlay: Overlay, numbers: list[int], keys: Mapping[tuple[int, bool], Floats]) -> Overlay:
    """The overlay with the keys given of some images; one without keys waits no longer."""
    images: dict[int, tuple[str, Mapping[bool, Floats]] | None] = {}
    for number in numbers:
        made = {mirrored: keys[number, mirrored] for mirrored in (False, True) if (number, mirrored) in keys}
        images[number] = (overlay.waiting[number], made) if made else None
    return (
        overlay.changed(overlay.change, overlay.token, labels={}, images=images, corrections={}) if images else overlay
    )

"""Small pictures of taught images: made when they are taught, of the pixels that were decoded for their keys."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.model.bundles.entry_table import SIDE
from secondlook.model.errors import ImageError, JournalError
from secondlook.model.journal import ACCEPTED, Journal
from secondlook.service.errors import UnavailableError
from secondlook.service.state import State

logger = logging.getLogger(__name__)

NONE = b""
"""Kept in place of one that cannot be made, so that it is not tried again."""


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of an RGB image (height,width,3) uint8."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return _png(image)


async def of_taught(state: State, journal: Journal, number: int, *, is_mirrored: bool) -> bytes | None:
    """A PNG of a taught image; None where there is none.

    One taught before thumbnails were kept is decoded now, counted by admission like an upload, one at a time.

    Raises:
        QueueFullError: there is no room to decode it.
        UnavailableError: it was not decoded in time.
    """
    try:
        async with asyncio.timeout(state.settings.request_timeout_s):
            kept = await asyncio.to_thread(journal.thumbnail, number)
            if kept is None:
                async with state.making_thumbnail:
                    kept = await asyncio.to_thread(journal.thumbnail, number)
                    if kept is None:
                        kept = await _made(state, journal, number)
    except TimeoutError as error:
        raise UnavailableError("the thumbnail was not made in time: try again later") from error
    if not kept:
        return None
    return await asyncio.to_thread(_mirrored, kept) if is_mirrored else kept


async def _made(state: State, journal: Journal, number: int) -> bytes:
    content = await asyncio.to_thread(journal.content, number)
    if content is None:
        return NONE
    geometry = state.batcher.predictor.bundle.geometry
    pixels = np.empty((*geometry.size, 3), np.uint8)
    deadline = time.monotonic() + state.settings.request_timeout_s
    with state.admission.admit(len(content)) as ticket:
        ticket.add(received=len(content))
        try:
            await state.decoders.decode(content, pixels, geometry, ACCEPTED, state.decoders.spending(1), deadline)
            made = await asyncio.to_thread(thumbnail, pixels)
        except ImageError as error:
            logger.warning("taught image %d has no thumbnail: %s", number, error)
            made = NONE
    with suppress(JournalError):  # it is made again where it cannot be kept
        await asyncio.to_thread(journal.keep_thumbnail, number, made)
    return made


def _mirrored(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:  # made here
        return _png(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

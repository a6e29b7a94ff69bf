"""What decoding an image is charged, and its place among others; ``lanes`` says whose turn it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import ImageTooSlowError
from secondlook.model.images import Geometry, Limits, sniff
from secondlook.model.images.decoder import Job as Message
from secondlook.model.images.fitting import large

QUICK_FILE_BYTES, QUICK_PIXELS, QUICK_BYTES = 1 << 20, 1 << 20, 64 << 20
"""Of an image of the quick lane: its file, its pixels, and the memory that it takes at most."""
LARGE_TARGET_BYTES = 22
"""By so many bytes that a geometry takes beyond the usual, images of the quick lane have a pixel less: what one of the
costliest formats takes at least."""
TURN_S, LONG_TURN_S = 0.25, 2.0
"""Of the processor, after which one goes on later if smaller ones wait, or others; twice as long each time."""
PIXEL_S = 4e-8
"""Of the processor, that a pixel of a usual image takes at most (lossless WebP). One that is ended sooner, for others
that are no smaller, is begun anew for nothing."""
TURN_OF_REQUEST_S = 0.02
"""By how much the next image of the same request goes behind those of others."""
IMAGE_S = 0.1
"""Of the processor, that a request of very many images has at least for each."""


@dataclass(eq=False, slots=True)
class Spending:
    """The processor's time that decoding one request's images takes."""

    limit_s: float
    spent_s: float = 0.0
    lost_s: float = 0.0
    """With what was begun anew later."""
    running_s: float = 0.0
    """Of those that are being decoded; known while they are looked at."""
    quick: int = 0
    """Images that were given to the quick lane."""

    @property
    def is_over(self) -> bool:
        """Whether it is too much."""
        return self.spent_s + self.running_s > self.limit_s


@dataclass(eq=False, slots=True)
class Job:
    """An image to be decoded."""

    file: bytes | bytearray
    out: NDArray[np.uint8]
    geometry: Geometry
    limits: Limits
    spending: Spending
    deadline: float
    done: asyncio.Future[None]
    order: int
    at_once: int = field(init=False)
    """Pixels that are decoded without asking."""
    pixels: int = 0
    """By its header; 0 as long as that is not known."""
    peak: int = QUICK_BYTES
    tries: int = 0
    """How often it was killed for others."""
    crashes: int = 0
    is_behind: bool = False
    """It was in the quick lane, and let others go first."""

    def __post_init__(self) -> None:
        if len(self.file) > QUICK_FILE_BYTES:
            self.at_once = 0
        else:
            self.at_once = max(0, QUICK_PIXELS - large(self.geometry) // LARGE_TARGET_BYTES)

    @property
    def kind(self) -> tuple[str | None, int]:
        """What others that are like it have in common with it: the format, and about how many bytes."""
        return sniff(bytes(self.file[:64])), len(self.file).bit_length()

    @property
    def too_slow(self) -> ImageTooSlowError:
        """That it, or its request, takes too long."""
        if not self.spending.is_over:
            return ImageTooSlowError("decoding it takes too long: send it smaller, or as a plain PNG or JPEG")
        limit = f"{self.spending.limit_s:g} s of the processor"
        return ImageTooSlowError(f"decoding it takes more than the {limit} that a request's images may take in all")

    @property
    def charge(self) -> int:
        """Bytes of memory; its file is there twice, as it is shared and as it is read."""
        return self.peak + 2 * len(self.file)

    @property
    def message(self) -> Message:
        """What a decoder is told of it."""
        seconds = ceil(self.spending.limit_s) + 1
        return Message(len(self.file), self.limits.pixels, self.at_once, self.peak, seconds, self.geometry)

    @property
    def rank(self) -> tuple[int, int, int]:
        """Its place among slow ones: whose requests have taken less of the processor go first, then smaller ones."""
        return self.rank_after(0.0)

    def rank_after(self, used_s: float) -> tuple[int, int, int]:
        """The same, had it taken so much more."""
        return int((self.spending.spent_s + self.spending.lost_s + used_s) / TURN_S), self.pixels, self.order


@dataclass(eq=False, slots=True)
class Running:
    """An image that is being decoded."""

    job: Job
    is_slow: bool
    charge: int
    started: float = field(default_factory=time.monotonic)
    used_s: float = 0.0

"""An image of a dataset as it lies there: what tells it from all others, before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from secondlook.model.images import Geometry, Limits, decode, read_header


@dataclass(frozen=True)
class Content:
    """The bytes of one image."""

    parts: tuple[bytes | memoryview, ...]
    """All that its pixels depend on."""
    decode: Callable[[Geometry], NDArray[np.uint8]]
    """Gives the image (height,width,3), as a geometry has it; raises ImageError."""
    check: Callable[[], object] = lambda: None
    """Raises the ImageError that ``decode`` would, for what is told without decoding."""

    @classmethod
    def of_file(cls, data: bytes, limits: Limits) -> Content:
        """That of an image file."""
        return cls((data,), lambda geometry: decode(data, geometry, limits), lambda: read_header(data, limits))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes)."""
        made = sha256()
        for part in self.parts:
            made.update(part)
        return made.digest()

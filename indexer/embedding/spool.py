"""Unnamed files beside the bundles, for what an index makes and is too much to hold: gone with their last reader."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from secondlook.model.errors import BundleError


class Span(NamedTuple):
    """Where something lies in a spool."""

    start: int
    size: int


class Spool:
    """A file that grows at its end and is read anywhere, on the disk of a folder; None = of temporary files.

    One thread adds, any reads what was added.

    Raises:
        BundleError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._where = folder or Path(tempfile.gettempdir())
        self._end = 0
        try:
            self._file = tempfile.TemporaryFile(dir=self._where)  # noqa: SIM115 - as long as anybody reads it
        except OSError as error:
            raise self._failed(error) from error
        weakref.finalize(self, self._file.close)

    def add(self, content: bytes | memoryview) -> Span:
        """Append something; where it lies.

        Raises:
            BundleError: the disk is full, or cannot be written.
        """
        size = memoryview(content).nbytes
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._end += size
        return Span(self._end - size, size)

    def read(self, span: Span) -> bytes:
        """What was added there."""
        return os.pread(self._file.fileno(), span.size, span.start)

    def array(self, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
        """All that was added, as an array that is mapped and cannot be written to: it outlives the spool."""
        if not self._end:
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(self._file, dtype, "r", shape=shape))

    def _failed(self, error: OSError) -> BundleError:
        return BundleError(f"{self._where} cannot be written: {error.strerror}")

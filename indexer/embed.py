"""Reading and embedding of a dataset: decoding in threads, overlapped with the encoder."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.datasets import Dataset
from indexer.progress import Progress, silent
from model.errors import DatasetError, ImageError

log = logging.getLogger(__name__)

UNREADABLE_SHARE = 0.01
UNREADABLE_ALWAYS = 10


@dataclass
class Unreadable:
    """The images that could not be decoded, and how many may be before the work is given up."""

    allowed: int
    sources: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, count: int) -> Unreadable:
        """One in a hundred of count images may be unreadable, and ten always."""
        return cls(max(UNREADABLE_ALWAYS, int(count * UNREADABLE_SHARE)))

    def add(self, source: str, error: ImageError) -> None:
        """Name one.

        Raises:
            DatasetError: there are now more than allowed.
        """
        self.sources.append(source)
        log.warning("skipped %s: %s", source, error)
        if len(self.sources) > self.allowed:
            named = ", ".join(self.sources[:5])
            raise DatasetError(f"over {self.allowed} images are unreadable ({named}, ...): mend or remove them")


Decoded = list[tuple[int, "NDArray[np.uint8] | ImageError"]]


def batches(
    dataset: Dataset, indices: NDArray[np.int64], size: tuple[int, int], batch_size: int, unreadable: Unreadable
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Decode the images at indices, in that order: (positions (b,), images (b,height,width,3)) with b <= batch_size.

    A few batches are decoded ahead in a pool of threads. Unreadable images are noted and left out.

    Raises:
        DatasetError: too many are unreadable.
    """

    def decode(chunk: NDArray[np.int64]) -> Decoded:
        decoded: Decoded = []
        for index in chunk.tolist():
            try:
                decoded.append((index, dataset.read(index, size)))
            except ImageError as error:
                decoded.append((index, error))
        return decoded

    workers = os.cpu_count() or 1
    chunks = iter([indices[start : start + batch_size] for start in range(0, len(indices), batch_size)])
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Decoded]] = deque()
        try:
            while True:
                while len(ahead) < workers + 1 and (chunk := next(chunks, None)) is not None:
                    ahead.append(pool.submit(decode, chunk))
                if not ahead:
                    return
                readable: list[tuple[int, NDArray[np.uint8]]] = []
                for index, result in ahead.popleft().result():
                    if isinstance(result, ImageError):
                        unreadable.add(dataset.source(index), result)
                    else:
                        readable.append((index, result))
                if readable:
                    yield np.array([index for index, _ in readable]), np.stack([image for _, image in readable])
        finally:
            for future in ahead:
                future.cancel()


def read_all(
    dataset: Dataset, size: tuple[int, int], progress: Progress = silent
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every image (N,height,width,3) and label (N,) of a dataset in memory.

    Raises:
        DatasetError: an image is unreadable (positions must stay those of the holdout, so none is left out here).
    """
    count = len(dataset.labels)
    images = np.empty((count, *size, 3), np.uint8)
    for indices, decoded in batches(dataset, np.arange(count), size, 256, Unreadable(0)):
        images[indices] = decoded
        progress("read", int(indices[-1]) + 1, count)
    return images, dataset.labels

"""Reading and embedding of a dataset: decoding in threads, overlapped with the encoder."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.progress import Progress, silent
from secondlook.model.errors import ImageError
from secondlook.model.images import Geometry

T = TypeVar("T")


def batches(
    dataset: Dataset, indices: NDArray[np.int64], geometry: Geometry, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Decode the images at indices, in that order: (positions (b,), images (b,height,width,3)) with b <= batch_size.

    Images that cannot be read are left out, and noted in the dataset's ``left_out``.
    """
    for readable in read_ahead(dataset, indices, batch_size, lambda index: dataset.read(index, geometry)):
        yield np.array([index for index, _ in readable]), np.stack([image for _, image in readable])


def read_ahead(
    dataset: Dataset, indices: NDArray[np.int64], batch_size: int, read: Callable[[int], T]
) -> Iterator[list[tuple[int, T]]]:
    """What ``read`` gives for indices, in that order, up to ``batch_size`` at once; never nothing.

    A few batches are read ahead in a pool of threads. Images for which it raises ImageError are left out, and noted in
    the dataset's ``left_out``.
    """

    def part(chunk: NDArray[np.int64]) -> list[tuple[int, T | ImageError]]:
        found: list[tuple[int, T | ImageError]] = []
        for index in chunk.tolist():
            try:
                found.append((index, read(index)))
            except ImageError as error:
                found.append((index, error))
        return found

    workers = os.cpu_count() or 1
    chunks = iter([indices[start : start + batch_size] for start in range(0, len(indices), batch_size)])
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[list[tuple[int, T | ImageError]]]] = deque()
        try:
            while True:
                while len(ahead) < workers + 1 and (chunk := next(chunks, None)) is not None:
                    ahead.append(pool.submit(part, chunk))
                if not ahead:
                    return
                readable: list[tuple[int, T]] = []
                for index, result in ahead.popleft().result():
                    if isinstance(result, ImageError):
                        dataset.left_out.note(dataset.source(index), result)
                    else:
                        readable.append((index, result))
                if readable:
                    yield readable
        finally:
            for future in ahead:
                future.cancel()


def read_all(
    dataset: Dataset, geometry: Geometry, progress: Progress = silent
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every image (n,height,width,3) of a dataset that can be read, in memory, and its position (n,)."""
    count = len(dataset.labels)
    images = np.empty((count, *geometry.size, 3), np.uint8)
    positions = np.empty(count, np.int64)
    done = 0
    for indices, decoded in batches(dataset, np.arange(count), geometry, 256):
        rows = slice(done, done + len(indices))
        images[rows], positions[rows] = decoded, indices
        done += len(indices)
        progress("read", done, count)
    return images[:done], positions[:done]

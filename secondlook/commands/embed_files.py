"""Files of keys: ``.npy`` with a list of the photos beside it, ``.csv`` and ``.json``; whole or absent."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from secondlook.model.answering.told import written_key
from secondlook.model.cache import Floats

ENDINGS = (".npy", ".csv", ".json")
Write = Callable[[Sequence[str], Floats], None]
"""Called with some photos' names and their keys (n,D), in order."""
Head = dict[str, object]


def list_beside(path: Path) -> Path:
    """Where the photos of an ``.npy`` file are listed, in the order of its rows."""
    return path.with_suffix(".files.json")


@contextmanager
def key_file(path: Path, most: int, dim: int, head: Head, tail: Callable[[], Head]) -> Iterator[Write]:
    """Write keys of ``dim`` numbers, of ``most`` photos at most.

    ``head`` and, at the end, what ``tail`` gives are in what is JSON. Until all of it is there, what lay there before
    is as it was.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix.lower() == ".csv":
        with whole(path) as file:
            yield _as_csv(io.TextIOWrapper(file, "utf-8", newline="", write_through=True), dim)
    elif path.suffix.lower() == ".json":
        with whole(path) as file, _as_json(file, head, tail) as write:
            yield write
    else:
        with whole(path) as file, whole(list_beside(path)) as listed:
            with _as_npy(file, most, dim) as (names, write):
                yield write
            listed.write(json.dumps({**head, "files": names, **tail()}, indent=1).encode() + b"\n")


def _as_csv(file: IO[str], dim: int) -> Write:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["file", *range(dim)])

    def write(names: Sequence[str], keys: Floats) -> None:
        rows.writerows([name, *written_key(key)] for name, key in zip(names, keys, strict=True))

    return write


@contextmanager
def _as_json(file: IO[bytes], head: Head, tail: Callable[[], Head]) -> Iterator[Write]:
    count = 0

    def write(names: Sequence[str], keys: Floats) -> None:
        nonlocal count
        for name, key in zip(names, keys, strict=True):
            row = json.dumps({"file": name, "embedding": written_key(key)})
            file.write((b",\n" if count else b"\n") + row.encode())
            count += 1

    file.write(json.dumps(head).encode()[:-1] + b', "embeddings": [')
    yield write
    file.write(b"\n], " + json.dumps(tail()).encode()[1:] + b"\n")


@contextmanager
def _as_npy(file: IO[bytes], most: int, dim: int) -> Iterator[tuple[list[str], Write]]:
    """Rows as they come, however many there are: they need not fit into memory."""
    names: list[str] = []

    def header(rows: int) -> None:
        # numpy leaves room in it for a larger first number.
        described = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, described)

    def write(more: Sequence[str], keys: Floats) -> None:
        file.write(keys.astype("<f4").tobytes())
        names.extend(more)

    header(most)
    begins = file.tell()
    yield names, write
    file.seek(0)
    header(len(names))
    assert file.tell() == begins


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name once all of it is written.

    Raises:
        OSError: it cannot be written; names it.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    except OSError as error:
        raise _named(error, path) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # as any new file
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, temporary):  # such as of a disk that is full
            raise _named(error, path) from error
        raise


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))

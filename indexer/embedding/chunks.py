"""Files of arrays that are whole or absent: what a killed run leaves behind, the next one goes on with.

A file is written under another name, waited for until it is on the disk, and renamed. It is an uncompressed ``.npz``,
read without unpickling anything, so its arrays can be mapped in place.
"""

from __future__ import annotations

import io
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.model.bundles.locks import fsync

Arrays = dict[str, NDArray[Any]]

_OF_ZIPS = (zipfile.BadZipFile, zlib.error, NotImplementedError)
DAMAGED = (ValueError, TypeError, KeyError, OSError, EOFError, IndexError, *_OF_ZIPS)
"""What reading a file that is no such file raises."""

_LOCAL_HEADER = 30
"""Bytes of a zip's entry before its name; at 26 and 28 stand the lengths of the name and of what follows it."""


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A file's content."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type] # numpy's own flag is among the keywords
    return content.getvalue()


def unpacked(content: bytes, names: Sequence[str] | None = None, needed: Sequence[str] = ()) -> Arrays:
    """The arrays, or those of some names, each held to its checksum.

    Without ``names``, all that are ``needed`` have to be there.

    Raises:
        One of DAMAGED: it is none, or damaged.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names or dict.fromkeys((*needed, *arrays.files))}


def mapped(path: Path) -> Arrays:
    """The arrays, mapped and not read: nothing says whether they are damaged but where they lie."""
    buffer = np.memmap(path, np.uint8, "r")
    found: Arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as listing:
        for entry in listing.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed")
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER)
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            if dtype.hasobject or is_fortran:
                raise ValueError(f"{entry.filename} is no plain array")
            array: NDArray[Any] = np.ndarray(shape, dtype, buffer, file.tell())
            found[entry.filename.removesuffix(".npy")] = array
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, on the disk.

    Raises:
        OSError: it cannot be written; then nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        fsync(temporary)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync(path.parent)

"""Image files in a folder and below, as folders are on real disks: links, litter, pipes and names of any bytes."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from secondlook.indexer.datasets.left_out import LeftOut, LeftOutError, Reason, printable
from secondlook.model.images import EXTENSIONS, FORMATS, Limits, sniff

HEAD = 64
"""Bytes of a file that tell its format."""

SYSTEM = frozenset(
    {
        *("__macosx", "@eadir", "@tmp", "#recycle", "lost+found", "$recycle.bin", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    }
)
"""Names, in lower case, of what systems leave in folders of photos; names that begin with a dot are hidden ones."""

PIXEL_BYTES = 8
"""A pixel takes no more in a file that is not packed: four samples of 16 bits."""
EXTRA_BYTES = 64 << 20
"""And so many for what is in a file beside its pixels."""


def is_system(name: str) -> bool:
    """Whether it is a system's, or hidden."""
    return name.startswith(".") or name.casefold() in SYSTEM


def walk(root: Path, folders: Iterable[str], left_out: LeftOut) -> list[str]:
    """Paths below root of the files in ``folders`` (paths below root) and below them that look like images, sorted.

    A file looks like one by the ending of its name or else by its first bytes. Linked files and folders are followed;
    a folder that is reached twice counts once, where it really is. All else is noted. Nothing but regular files is
    opened.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    # Links wait until all that is really there was seen.
    here, linked = deque(folders), deque[str]()
    while here or linked:
        is_linked = not here
        folder = linked.popleft() if is_linked else here.popleft()
        path = root / folder
        shown = f"{printable(folder)}/" if folder else "./"
        if not is_linked and path.is_symlink():
            linked.append(folder)
            continue
        try:
            if is_linked and _holds(path, root):
                left_out.add(shown, Reason.TWICE, "it links to a folder that it is in itself")
                continue
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                left_out.add(shown, Reason.TWICE, "its folder is there under another name")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            left_out.add(shown, Reason.UNREADABLE, unreadable(error))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind = kind_of(entry)
            if kind == "folder" and not is_system(entry.name):
                (linked if entry.is_symlink() else here).append(name)
            elif reason := why_not(entry, kind):
                left_out.add(printable(name) + ("/" if kind == "folder" else ""), *reason)
            else:
                found.append(name)
    return sorted(found)


def kind_of(entry: os.DirEntry[str]) -> Reason | str:
    """``folder`` or ``file``, links followed; else why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        mode = entry.stat(follow_symlinks=True).st_mode
    except FileNotFoundError:
        return Reason.BROKEN_LINK if entry.is_symlink() else Reason.UNREADABLE
    except OSError:
        # A link to itself, or one into a folder that may not be entered.
        return Reason.BROKEN_LINK if entry.is_symlink() else Reason.UNREADABLE
    return Reason.UNREADABLE if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else Reason.SPECIAL


def why_not(entry: os.DirEntry[str], kind: Reason | str) -> tuple[Reason, str] | None:
    """Why a folder's entry, which is no folder to enter, is no image; None where it looks like one."""
    if is_system(entry.name):
        return Reason.SYSTEM, ""
    if isinstance(kind, Reason):
        return kind, ""
    if os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
        return None
    try:
        with _opened(Path(entry.path)) as file:
            return (Reason.NOT_AN_IMAGE, "") if sniff(file.read(HEAD)) is None else None
    except LeftOutError as error:
        return error.reason, str(error)


def read_image(path: Path, limits: Limits) -> bytes:
    """A file's bytes, if they begin as an image does; no more of any other file is read.

    Raises:
        LeftOutError: it is empty, no image, too large for one, no regular file, or cannot be read.
    """
    most = PIXEL_BYTES * limits.pixels + EXTRA_BYTES
    with _opened(path) as file:
        try:
            head = file.read(HEAD)
            if not head:
                raise LeftOutError(Reason.EMPTY, "the file is empty")
            if sniff(head) is None:
                raise LeftOutError(Reason.NOT_AN_IMAGE, f"the file is not one of {', '.join(FORMATS)}")
            content = head + file.read(most)
        except OSError as error:
            raise LeftOutError(Reason.UNREADABLE, unreadable(error)) from error
    if len(content) > most:
        raise LeftOutError(Reason.TOO_LARGE, f"the file is larger than any image of {limits.pixels:,} pixels")
    return content


def unreadable(error: OSError) -> str:
    """Why a file cannot be read, as a sentence."""
    return f"it cannot be read: {error.strerror}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file.

    Raises:
        LeftOutError: it is another, or cannot be opened.
    """
    try:
        # To open a pipe would wait for its writer, and to open some devices does something.
        _check_regular(path.stat())
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise LeftOutError(Reason.UNREADABLE, unreadable(error)) from error
    except ValueError as error:  # no name of a file, such as one with a zero byte
        raise LeftOutError(Reason.UNREADABLE, f"it cannot be read: {error}") from error
    with file:
        _check_regular(os.fstat(file.fileno()))
        yield file


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise LeftOutError(Reason.SPECIAL, "it is no regular file")


def _holds(link: Path, root: Path) -> bool:
    """Whether a link leads to the root, or to a folder that it is in."""
    return root.resolve().is_relative_to(link.resolve())

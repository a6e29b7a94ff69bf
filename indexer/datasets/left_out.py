"""What was left out of a dataset, and why: files that are no images, and images that cannot be read."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from secondlook.model.errors import ImageError, ImageTooLargeError, ParameterError

NAMED = 3
"""Files of each reason that are named where people read."""
LONGEST = 100
"""Characters of a name there."""

# Line breaks and other controls, what turns the direction of writing, and bytes that are no UTF-8; the backslash, so
# that no two names are written alike.
_ESCAPED = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Reason(StrEnum):
    """Why something was left out."""

    DAMAGED = "damaged"
    EMPTY = "empty"
    TOO_LARGE = "too large"
    UNREADABLE = "unreadable"
    NO_KEY = "no finite key"
    NOT_AN_IMAGE = "not an image"
    NO_CLASS = "in no class folder"
    NO_SPLIT = "beside the splits"
    SPECIAL = "special file"
    BROKEN_LINK = "broken link"
    TWICE = "linked twice"
    REMOVED = "removed meanwhile"
    SYSTEM = "hidden or system"


FAULTS = frozenset({Reason.DAMAGED, Reason.EMPTY, Reason.TOO_LARGE, Reason.UNREADABLE, Reason.NO_KEY})
"""Those of files that were taken for images."""


class LeftOutError(ImageError):
    """A file gives no image, for a ``reason`` of its own."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def reason_of(error: ImageError) -> Reason:
    """The reason that an error amounts to."""
    if isinstance(error, LeftOutError):
        return error.reason
    return Reason.TOO_LARGE if isinstance(error, ImageTooLargeError) else Reason.DAMAGED


class Left(NamedTuple):
    """One thing that was left out."""

    file: str
    """Its path below the dataset, as text; a folder's ends with a slash."""
    reason: Reason
    why: str
    """A sentence; the reason itself where there is no more to say."""


@dataclass
class LeftOut:
    """All that was left out of a dataset so far; each file counts once, however often it is read."""

    _by_file: dict[str, Left] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_file)

    def __iter__(self) -> Iterator[Left]:
        return iter(self._by_file.values())

    @classmethod
    def joined(cls, parts: Iterable[LeftOut]) -> LeftOut:
        """All of several."""
        return cls({left.file: left for part in parts for left in part})

    def of(self, file: str) -> Left:
        """What is noted of one that was left out."""
        return self._by_file[file]

    def add(self, file: str, reason: Reason, why: str = "") -> None:
        """Note one."""
        self._by_file.setdefault(file, Left(file, reason, why or reason))

    def note(self, file: str, error: ImageError) -> None:
        """Note one for what went wrong with it."""
        self.add(file, reason_of(error), str(error))

    def counts(self) -> dict[str, int]:
        """How many for each reason that occurs, in the order of the reasons."""
        found = Counter(left.reason for left in self)
        return {reason.value: found[reason] for reason in Reason if reason in found}

    def below(self, *folders: str) -> LeftOut:
        """Those in these folders."""
        starts = tuple(f"{printable(folder)}/" for folder in folders)
        return LeftOut({file: left for file, left in self._by_file.items() if file.startswith(starts)})

    def said(self) -> str:
        """Counts with a few names, on one line: ``2 damaged (a.png, b.png), 1 hidden or system (.git/)``."""
        parts = []
        for reason, count in self.counts().items():
            files = [shortened(left.file) for left in self if left.reason == reason][:NAMED]
            parts.append(f"{count:,} {reason} ({', '.join(files)}{', ...' if count > len(files) else ''})")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, object]:
        """For JSON: counts, and every file."""
        return {"left_out": self.counts(), "left_out_files": [left._asdict() for left in self]}

    def as_lines(self) -> Iterator[dict[str, str]]:
        """For JSON, an object each: as one, a million of them would be a line that few can read."""
        for left in self:
            yield left._asdict()

    def write(self, path: Path) -> None:
        """Write every file with its reason, as CSV or JSON by the path's ending.

        Raises:
            ParameterError: another ending.
        """
        check_ending(path)
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".json":
                json.dump(self.as_dict(), file, indent=1)
                file.write("\n")
            else:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(Left._fields)
                rows.writerows(self)


def check_ending(path: Path, *endings: str) -> None:
    """Refuse a path of which nothing says how it is written, which endings are to: .csv and .json, if none is given.

    Raises:
        ParameterError: it has another.
    """
    *others, last = endings or (".csv", ".json")
    if path.suffix.lower() not in (*others, last):
        said = f"{', '.join(others)} or {last}"
        raise ParameterError(f"{path}: the ending says how it is written: give a name that ends with {said}")


def printable(name: str) -> str:
    r"""A file's name as text, and other text for any other name: a byte that is no UTF-8 becomes ``\xff``."""
    return _ESCAPED.sub(lambda found: _escape(found[0]), as_utf8(name))


def is_plain(name: str) -> bool:
    """Whether a folder's name is text that it is found by again, and that no command takes for an option."""
    return printable(name) == name and not name.startswith("-")


def as_utf8(name: str) -> str:
    """A file's name as it is where names are UTF-8, whatever this process takes them for."""
    return name.encode(errors="surrogateescape").decode(errors="surrogateescape")


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return f"\\x{ord(char):02x}" if char <= "\x1f" else f"\\u{ord(char):04x}"


def shortened(name: str) -> str:
    """A name that does not fill the screen."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"

"""What a process has in memory."""

from collections import Counter
from pathlib import Path


def mapped(pid: int | str, name: str) -> Counter[str]:
    """Of the files of that name that a process maps: KiB by kind, as /proc/<pid>/smaps has them."""
    found: Counter[str] = Counter()
    is_it = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.removesuffix(" (deleted)").split()
        if not first.endswith(":"):  # the first line of a mapping
            is_it = bool(rest) and rest[-1].rpartition("/")[2] == name
        elif is_it and rest[-1:] == ["kB"]:
            found[first[:-1]] += int(rest[0])
    return found

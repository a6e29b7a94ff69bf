"""What the processor has spent on a process and all below it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class _Process(NamedTuple):
    parent: int
    ticks: int


def processor_seconds(process: int) -> float:
    """Of a process and those it has started, as far as they still run or were waited for."""
    found: dict[int, _Process] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                # The second field is a name in brackets, which may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    own, more = {process}, {process}
    while more:
        more = {number for number, one in found.items() if one.parent in more} - own
        own |= more
    return sum(found[number].ticks for number in own if number in found) / os.sysconf("SC_CLK_TCK")

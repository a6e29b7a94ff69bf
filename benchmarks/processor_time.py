"""What a process and all below it have taken: of the processor, and of memory."""

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
    found = _running()
    return sum(found[number].ticks for number in _family(process, found)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(process: int) -> int:
    """Memory of a process and those it has started; what several of them share counts once."""
    taken = 0
    for number in _family(process, _running()):
        with suppress(OSError):
            for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    taken += 1024 * int(line.split()[1])
    return taken


def _running() -> dict[int, _Process]:
    found: dict[int, _Process] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                # The second field is a name in brackets, which may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _family(process: int, running: dict[int, _Process]) -> set[int]:
    own, more = {process}, {process}
    while more:
        more = {number for number, one in running.items() if one.parent in more} - own
        own |= more
    return own & running.keys()

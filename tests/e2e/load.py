"""Load that goes on while a test does something else, and what a process has in use meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.client import Client, Reply


@dataclass
class Load:
    """Connections that ask one after another about an image until told to stop, and what came of it."""

    url: str
    png: bytes
    query: str = ""
    connections: int = 4
    replies: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._stopping = False
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self.connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        async with Client(self.url) as client:
            while not self._stopping:
                try:
                    reply = await client.predict(self.png, self.query)
                except (ConnectionError, TimeoutError) as error:
                    self.failures.append(repr(error))
                    continue
                self.replies.append(reply)
                if reply.status != 200:
                    self.failures.append(f"{reply.status}: {reply.body[:200]!r}")


def held(pid: int) -> int:
    """Bytes of memory that a process has in use; of what it shares, its share.

    Not counted are pages of files (programs, keys), which the system takes back when it needs them, and of which each
    process has a larger share once another one has ended. Read from where the kernel counts exactly: what
    ``/proc/<pid>/statm`` says may be off by 128 pages or more for each processor.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kinds = dict(line.split()[:2] for line in rollup.splitlines()[1:])
    return sum(int(kinds[f"{kind}:"]) << 10 for kind in ("Pss_Anon", "Pss_Shmem", "SwapPss"))


def children(pid: int) -> list[int]:
    """Processes that a process started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def rebuilding(pid: int) -> list[int]:
    """Those of them that index."""
    found = []
    for child in children(pid):
        with suppress(OSError):  # it has ended
            if b"index" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                found.append(child)
    return found


def descendants(pid: int) -> list[int]:
    """Those processes, and theirs."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def held_by_all(pid: int) -> int:
    """The same of a process and its descendants."""
    total = 0
    for one in (pid, *descendants(pid)):
        with suppress(OSError):  # it has ended
            total += held(one)
    return total

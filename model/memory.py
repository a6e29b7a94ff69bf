"""Whether work fits into memory, asked before it begins."""

from __future__ import annotations

from pathlib import Path

from secondlook.model.errors import MemoryLimitError

CGROUP = Path("/sys/fs/cgroup")


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse work that needs more bytes than are free; on systems that do not say, nothing is refused.

    Raises:
        MemoryLimitError: it would not fit.
    """
    free = available_bytes()
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: {remedy}"
        )


def available_bytes() -> int | None:
    """Memory that can still be used, by the kernel's estimate and the container's limit; None where neither is told."""
    found: list[int] = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((CGROUP / "memory.current").read_text())
            # The page cache counts as used but is given back, all but what lies in memory-backed files.
            for name, _, count in (line.partition(" ") for line in (CGROUP / "memory.stat").read_text().splitlines()):
                used += {"file": -1, "shmem": 1}.get(name, 0) * int(count)
            found.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    return min(found, default=None)

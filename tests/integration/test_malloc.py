"""What a process keeps of the large blocks that it has freed."""

import subprocess
import sys

import pytest

# In a thread, which has an arena of its own: a large block is freed, and from then on one of half its size is usual.
KEPT = """
import sys, threading
import numpy as np
from secondlook.model.malloc import give_back

def held():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) << 10

def work():
    np.full(31 << 20, 1, np.uint8)
    for _ in range(4):
        large = [np.full(12 << 20, 1, np.uint8) for _ in range(2)]
        above.append(bytes(100_000))
        del large
    print(held() - before)

above = []
if sys.argv[1] == "gives back":
    give_back()
before = held()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def kept(how: str) -> int:
    """Bytes."""
    return int(subprocess.run([sys.executable, "-c", KEPT, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    assert kept("gives back") < 4 << 20
    if kept("as usual") < 20 << 20:
        pytest.skip("this C library gives them back by itself")

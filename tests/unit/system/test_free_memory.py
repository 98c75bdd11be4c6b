"""Memory that a process does not use any more is given back, although what is still in use lies between."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from hsmd.system.free_memory import FreeMemory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

memory = FreeMemory()
before = resident()
buffers = [bytearray(60_000) for _ in range(1_000)]
kept = buffers[::40]
most = resident()
del buffers
left = resident()
memory.check()
print(most - before, left - before, resident() - before)
"""


def test_buffers_that_were_freed_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    most, left, after = map(int, done.stdout.split())
    assert most > 50
    assert left > 30, "the C library gives back what lies at the end of its heap only"
    assert after < 8

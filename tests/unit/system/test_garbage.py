"""How much garbage may wait for its collection in a process with many long-lived objects."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import weakref
from hsmd.system.process import tune_garbage_collection

class Connection:
    def __init__(self):
        self.handlers = [[self] for _ in range(50)]

long_lived = [[] for _ in range(200_000)]
tune_garbage_collection()
alive, most, open_now = weakref.WeakSet(), 0, []
for _ in range(20_000):
    open_now = [*open_now[-29:], Connection()]
    alive.add(open_now[-1])
    most = max(most, len(alive))
print(most)
"""


def test_connections_that_have_ended_are_collected_while_they_are_few() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 600

"""Generates keys in the token as the control worker does, without a daemon: `python -m hsmd.cli.bench.scale.bare_generator`.

After its order it reads lines: at each one it makes a key and prints how long that took, in seconds.
"""

from __future__ import annotations

import json
import sys
import time

from hsmd.algorithms import KeyType
from hsmd.cli.bench.scale.fill import PURPOSES, open_session
from hsmd.daemon.worker import key_objects


def main() -> None:
    """Input: {"pin_file"}, then a line for each key. The line `ready` is printed first."""
    order = json.loads(sys.stdin.readline())
    session = open_session(order["pin_file"], rw=True)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        key_objects.generate(session, "bare", KeyType.P256, PURPOSES)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()

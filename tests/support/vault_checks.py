"""Checks of public keys at a steady rate while a file exists, in a process of its own; prints how many were answered at the end.

    python -m tests.support.vault_checks HOST PORT HOST_KEY CLIENT IDENTITY RATE SWITCH < QUESTIONS

QUESTIONS is one JSON list of pairs of an owner and a public key in hexadecimal. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path

from hsmd.client import Connection, Endpoint
from hsmd.protocol import messages

POLL_S = 0.05


async def ask(
    endpoint: Endpoint, rate: float, switch: Path, questions: list[list[str]], ends: threading.Event
) -> int:
    answered = 0
    async with Connection(endpoint) as connection:
        print("ready", flush=True)
        while not ends.is_set():
            if not switch.exists():
                await asyncio.sleep(POLL_S)
                continue
            began, asked = time.monotonic(), 0
            while switch.exists() and not ends.is_set():
                owner, key = questions[answered % len(questions)]
                await connection.control(
                    messages.VaultCheck(owner, bytes.fromhex(key), os.urandom(16)), timeout_s=15
                )
                answered, asked = answered + 1, asked + 1
                await asyncio.sleep(max(0.0, began + asked / rate - time.monotonic()))
    return answered


def main() -> None:
    host, port, host_key, client, identity, rate, switch = sys.argv[1:]
    questions = json.loads(sys.stdin.readline())
    ends = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True).start()
    endpoint = Endpoint(host, int(port), (host_key,), client, Path(identity))
    print(asyncio.run(ask(endpoint, float(rate), Path(switch), questions, ends)), flush=True)


if __name__ == "__main__":
    main()

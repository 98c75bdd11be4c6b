"""Signs with one key through the daemon, some requests at a time: `python -m hsmd.cli.bench.scale.signer`.

It signs until its input ends, and then prints how many signatures failed, and the longest time from one to the next.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from hsmd.cli.bench.load import TLS13_SERVER
from hsmd.client import Connection, Endpoint
from hsmd.errors import Overloaded, Unavailable
from hsmd.protocol.frames import Kind
from hsmd.purposes import Purpose

DEADLINE_MS = 500
"""As OpenSSL servers wait for one (`timeout-ms` of the provider)."""
_SCHEME = 0x0403
_WARM_UP = 50
"""Rounds with as many requests open as later: each worker that will sign has read the token if another program changed it."""
_PAUSE_S = 0.01
"""After a request that could not be sent, because the connection is lost or full."""


class _Loop:
    """A closed loop: each answer triggers the next request."""

    def __init__(self, connection: Connection, key: bytes) -> None:
        self._connection = connection
        self._key = key
        self._open = 0
        self._ending = False
        self._ended = asyncio.Event()
        self._before = 0.0
        self.longest_s = 0.0
        self.signatures = self.failed = 0

    async def until(self, end: asyncio.Event, in_flight: int) -> None:
        """Sign with this number of requests open until `end` is set."""
        self._before = time.perf_counter()
        for _ in range(in_flight):
            self._send()
        await end.wait()
        self._ending = True
        await self._ended.wait()

    def _send(self) -> None:
        self._open += 1
        data = TLS13_SERVER + self.signatures.to_bytes(32, "big")
        try:
            self._connection.submit(
                DEADLINE_MS, Purpose.TLS13_SERVER, _SCHEME, self._key, data, self._answered
            )
        except (Unavailable, Overloaded):
            asyncio.get_running_loop().call_later(_PAUSE_S, self._answered, Kind.ERROR, b"")

    def _answered(self, kind: int, body: bytes) -> None:
        self._open -= 1
        if kind == Kind.RESULT:
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - self._before)
            self._before = now
            self.signatures += 1
        else:
            self.failed += 1
        if not self._ending:
            self._send()
        elif not self._open:
            self._ended.set()


async def _run(order: dict[str, Any]) -> None:
    endpoint = Endpoint(
        order["host"], order["port"], tuple(order["host_keys"]), order["user"], Path(order["identity_file"])
    )
    end = asyncio.Event()
    async with Connection(endpoint) as connection:
        for _ in range(_WARM_UP):
            warmed = asyncio.Event()
            warmed.set()
            await _Loop(connection, bytes.fromhex(order["key"])).until(warmed, order["in_flight"])
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), end.set)
        loop = _Loop(connection, bytes.fromhex(order["key"]))
        print("ready", flush=True)
        await loop.until(end, order["in_flight"])
    found = {"longest_gap_s": loop.longest_s, "signatures": loop.signatures, "failed": loop.failed}
    print(json.dumps(found), flush=True)


def main() -> None:
    """Input: host, port, host_keys, user, identity_file, key, in_flight; prints `ready`, then one JSON object."""
    uvloop.run(_run(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()

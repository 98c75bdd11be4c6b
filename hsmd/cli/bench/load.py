"""Load generator: a client process that keeps a number of requests in flight and measures their latencies.

Runs as `python -m hsmd.cli.bench.load`; reads a JSON object from standard input and prints a JSON list.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from hsmd.client import Connection, Endpoint
from hsmd.errors import HsmdError
from hsmd.protocol.frames import Kind
from hsmd.purposes import Purpose

WARM_UP_S = 0.2
DEADLINE_MS = 10_000
TLS13_SERVER = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"


class _Load:
    """A closed loop: each response triggers the next request."""

    def __init__(self, connection: Connection, key: bytes, scheme: int) -> None:
        self._connection = connection
        self._key = key
        self._scheme = scheme
        self._serial = 0
        self._until = 0.0
        self._open = 0
        self.latencies: list[float] = []
        self.errors = 0
        self._idle = asyncio.Event()

    async def run(self, in_flight: int, seconds: float) -> None:
        """Send requests for `seconds`; return when all are answered."""
        self.latencies, self.errors = [], 0
        self._idle.clear()
        self._until = time.perf_counter() + seconds
        for _ in range(in_flight):
            self._send()
        await self._idle.wait()

    def _send(self) -> None:
        self._serial += 1
        self._open += 1
        data = TLS13_SERVER + self._serial.to_bytes(32, "big")
        sent = time.perf_counter()

        def answered(kind: int, body: bytes) -> None:
            now = time.perf_counter()
            self.latencies.append(now - sent)
            self._open -= 1
            self.errors += kind != Kind.RESULT
            if now < self._until:
                self._send()
            elif not self._open:
                self._idle.set()

        self._connection.submit(DEADLINE_MS, Purpose.TLS13_SERVER, self._scheme, self._key, data, answered)


async def _run(order: dict[str, Any]) -> list[dict[str, Any]]:
    endpoint = Endpoint(
        order["host"], order["port"], tuple(order["host_keys"]), order["user"], Path(order["identity_file"])
    )
    async with Connection(endpoint) as connection:
        load = _Load(connection, bytes.fromhex(order["key"]), order["scheme"])
        await load.run(16, WARM_UP_S)
        gc.collect()
        gc.freeze()
        return [
            await _measure(load, in_flight, order["seconds"], order["pids"])
            for in_flight in order["in_flight"]
        ]


async def _measure(load: _Load, in_flight: int, seconds: float, pids: list[int]) -> dict[str, Any]:
    cpu_before, started = _cpu_s(pids), time.perf_counter()
    await load.run(in_flight, seconds)
    elapsed, cpu_s = time.perf_counter() - started, _cpu_s(pids) - cpu_before
    latencies = sorted(load.latencies)
    return {
        "in_flight": in_flight,
        "per_s": len(latencies) / elapsed,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
        "cpu_us": cpu_s / len(latencies) * 1e6,
        "errors": load.errors,
    }


def _cpu_s(pids: list[int]) -> float:
    """CPU time of the processes in seconds (proc(5), fields utime and stime of stat)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Input: host, port, host_keys, user, identity_file, key, scheme, in_flight (a list), seconds, pids."""
    try:
        json.dump(uvloop.run(_run(json.load(sys.stdin))), sys.stdout)
    except HsmdError as error:
        print(f"the load generator failed: {error.text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

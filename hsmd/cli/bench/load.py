"""The load: one client process that keeps a number of requests in flight and notes how long each took.

Run as a process of its own: `python -m hsmd.cli.bench.load`; reads one JSON object from standard input and prints one.
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

WARM_UP_S = 0.3
DEADLINE_MS = 10_000
TLS13_SERVER = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"


class _Load:
    """A closed loop: every answer sends the next request."""

    def __init__(self, connection: Connection, key: bytes, scheme: int) -> None:
        self._connection = connection
        self._key = key
        self._scheme = scheme
        self._serial = 0
        self._until = 0.0
        self._open = 0
        self.latencies: list[float] = []
        self.errors = 0
        self.idle = asyncio.Event()

    def start(self, in_flight: int, seconds: float) -> None:
        self.latencies = []
        self.idle.clear()
        self._until = time.perf_counter() + seconds
        for _ in range(in_flight):
            self._send()

    def _send(self) -> None:
        self._serial += 1
        data = TLS13_SERVER + self._serial.to_bytes(32, "big")
        sent = time.perf_counter()
        self._open += 1

        def answered(kind: int, body: bytes) -> None:
            now = time.perf_counter()
            self.latencies.append(now - sent)
            self._open -= 1
            if kind != Kind.RESULT:
                self.errors += 1
            if now < self._until:
                self._send()
            elif not self._open:
                self.idle.set()

        self._connection.submit(DEADLINE_MS, Purpose.TLS13_SERVER, self._scheme, self._key, data, answered)


async def _run(order: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint(
        host=order["host"],
        port=order["port"],
        host_keys=tuple(order["host_keys"]),
        user=order["user"],
        identity_file=Path(order["identity_file"]),
    )
    connection = Connection(endpoint)
    await connection.start()
    try:
        load = _Load(connection, bytes.fromhex(order["key"]), order["scheme"])
        load.start(order["in_flight"], WARM_UP_S)
        await load.idle.wait()
        gc.collect()
        gc.freeze()
        cpu_before = _cpu_s(order["pids"])
        started = time.perf_counter()
        load.start(order["in_flight"], order["seconds"])
        await load.idle.wait()
        elapsed = time.perf_counter() - started
        cpu = _cpu_s(order["pids"]) - cpu_before
    finally:
        await connection.close()
    latencies = sorted(load.latencies)
    return {
        "per_s": len(latencies) / elapsed,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
        "cpu_us": cpu / len(latencies) * 1e6,
        "errors": load.errors,
    }


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds that processes have used so far (proc(5), fields utime and stime of stat)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Input: host, port, host_keys, user, identity_file, key, scheme, in_flight, seconds, pids; output: the figures."""
    try:
        json.dump(uvloop.run(_run(json.load(sys.stdin))), sys.stdout)
    except HsmdError as error:
        print(f"load: {error.text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

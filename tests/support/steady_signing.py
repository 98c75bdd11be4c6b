"""A client that signs at a steady rate, so that a slower daemon shows in its latencies and not in fewer signatures."""

from __future__ import annotations

import asyncio
import hashlib
import time

from hsmd.client import Connection
from hsmd.purposes import Purpose
from tests.support.tls_bytes import P256, TLS13

SIGNATURES_PER_S = 100
"""Of each connection."""


async def sign_steadily(connection: Connection, key: bytes, seconds: float) -> list[float]:
    """Latencies of signatures that begin at a steady rate, as far as the previous one has ended."""
    took: list[float] = []
    began = time.monotonic()
    for number in range(int(seconds * SIGNATURES_PER_S)):
        await asyncio.sleep(max(0.0, began + number / SIGNATURES_PER_S - time.monotonic()))
        asked = time.monotonic()
        unique = hashlib.sha256(f"{asked} {id(connection)}".encode()).digest()
        await connection.use_key(key, Purpose.TLS13_SERVER, P256, TLS13[:-32] + unique, timeout_s=10)
        took.append(time.monotonic() - asked)
    return took


def percentile_99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]

"""Wait for a condition with a deadline: the only way in which tests wait for another process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.005


def wait_until(condition: Callable[[], object], what: str = "", within_s: float = 15.0) -> float:
    """Poll until `condition()` is true; return the seconds it took. AssertionError naming `what` after `within_s`."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < within_s, f"not within {within_s:g} s: {what or condition}"
        time.sleep(POLL_S)
    return time.monotonic() - began


async def eventually(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """As `wait_until`, without blocking the event loop."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(POLL_S)

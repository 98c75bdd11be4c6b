"""Clocks that jump. The index orders the log, deadlines are monotonic, and only dates depend on the wall clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsmd.daemon.audit import AuditLog
from hsmd.transparency.lines import Head
from tests.support.audit_logs import end_of_chain

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GRANT = ("web-1", "SHA256:abc", "www", bytes(32), "tls13-server", 0x0403)
YEAR = timedelta(days=365)


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize(
    "jump", [-YEAR, YEAR, -timedelta(milliseconds=1)], ids=["back", "forward", "a little back"]
)
async def test_a_log_continues_after_a_clock_jump(tmp_path: Path, jump: timedelta) -> None:
    clock = Clock()
    log = AuditLog.open(tmp_path / "audit", clock=clock)
    before = log.attempt(*GRANT, b"before")
    log.commit()
    clock.now += jump
    log.outcome(before, "performed", b"answer")
    left_open = log.attempt(*GRANT, b"after")
    log.commit()
    # The background sync uses monotonic time: it happens now, not in a year.
    began = time.monotonic()
    async with asyncio.timeout(5):
        await log.commit_durable()
    assert time.monotonic() - began < 5
    await log.close()
    clock.now -= 2 * jump
    again = AuditLog.open(tmp_path / "audit", clock=clock)
    await again.close()
    lines = (tmp_path / "audit" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    assert end_of_chain(lines) == Head(again.size, again.head)
    assert f'"attempt":{left_open},"result":"unknown"'.encode() in b"".join(lines)

"""An audit log in a temporary directory, with a clock that does not advance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit import AuditLog

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[Callable[..., AuditLog]]:
    """Opens the log in `tmp_path / "audit"`; logs that a test leaves open are closed at its end."""
    opened: list[AuditLog] = []

    def open_one(**options: Any) -> AuditLog:
        log = AuditLog.open(tmp_path / "audit", clock=lambda: NOON, **options)
        opened.append(log)
        return log

    yield open_one
    for log in opened:
        if not log.closed:
            await log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the log file."""
    return tmp_path / "audit" / "audit.jsonl"

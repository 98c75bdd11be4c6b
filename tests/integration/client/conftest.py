"""Fixtures: a daemon with software keys, and a connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsmd.client import Connection
from tests.support.fake_daemon import FakeDaemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest.fixture
async def connection(daemon: FakeDaemon) -> AsyncIterator[Connection]:
    async with Connection(daemon.endpoint()) as connection:
        yield connection

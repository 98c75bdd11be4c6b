"""Fixtures for tests of the command line."""

from __future__ import annotations

import pytest

from tests.support.fake_control import FakeDaemon


@pytest.fixture
def daemon(fake_daemon: FakeDaemon) -> FakeDaemon:
    """A daemon in memory that every command reaches."""
    return fake_daemon

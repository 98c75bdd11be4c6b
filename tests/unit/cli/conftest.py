"""Fixtures for tests of the command line."""

from __future__ import annotations

import pytest

from tests.support.fake_control import FakeControl


@pytest.fixture
def daemon(fake_control: FakeControl) -> FakeControl:
    """A daemon in memory that every command reaches."""
    return fake_control

"""Making a running agent read its configuration: only the process that made the socket gets the signal."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from hsmd.cli.agent import reload_agent


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that SIGHUP ends."""
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def test_the_process_that_made_the_socket_gets_the_signal(process: subprocess.Popen[bytes]) -> None:
    assert reload_agent._signal(process.pid, os.geteuid())
    assert process.wait(10) == -signal.SIGHUP


def test_a_process_of_another_user_with_its_number_gets_none(process: subprocess.Popen[bytes]) -> None:
    """An agent's user that kept the socket and ended could wait until another process has the number."""
    assert not reload_agent._signal(process.pid, os.geteuid() + 1)
    assert process.poll() is None
    process.kill()
    process.wait(10)
    assert not reload_agent._signal(process.pid, os.geteuid()), "it has ended"

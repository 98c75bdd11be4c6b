"""A user whom the user database does not know, without HOME and USER, as containers run programs: everything works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.processes import Process

pytestmark = pytest.mark.timeout(90)

UID = 1_000_550_000
AS_NUMBER = (
    *(
        ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups")
        if os.geteuid() == 0
        else ("unshare", "--user", f"--map-user={UID}", f"--map-group={UID}")
    ),
    *("env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={Path(__file__).parents[3]}"),
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of this user, in a place that it may enter; pytest's own are private to the user of the tests."""
    path = Path(tempfile.mkdtemp(prefix="hsmd-number-"))
    if os.geteuid() == 0:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path)


def hsmd(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [*AS_NUMBER, sys.executable, "-m", "hsmd.cli", *arguments]
    return subprocess.run(line, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_commands_say_what_they_need(directory: Path) -> None:
    asked = hsmd(directory, "key", "list")
    assert asked.returncode == 2
    assert asked.stderr.startswith("hsmd: no daemon is configured: --daemon, --user, --identity, --host-key")
    assert "internal error" not in asked.stderr


def test_a_daemon_and_an_agent_run_and_connect(directory: Path) -> None:
    profile = ("--profile", directory / "operator.toml")
    listen = ("--listen", f"127.0.0.1:{free_port()}")
    made = hsmd(directory, "init", "--softhsm", "--config", "hsmd.toml", *listen, *profile)
    assert made.returncode == 0, made.stderr
    daemon = DaemonProcess(directory / "hsmd.toml", directory / "daemon.log", prefix=AS_NUMBER)
    try:
        enrolled = hsmd(directory, "client", "enroll", "web1", *profile)
        assert enrolled.returncode == 0, enrolled.stderr
        (directory / "token").write_text(enrolled.stdout)
        files = ("--config", directory / "agent.toml", "--socket", directory / "agent.sock")
        initialised = hsmd(directory, "agent", "init", "--enroll", "token", *files)
        assert initialised.returncode == 0, initialised.stderr
        run = [*AS_NUMBER, sys.executable, "-m", "hsmd.cli", "agent", "run", *files[:2]]
        agent = Process(run, directory / "agent.log")
        try:
            log = directory / "agent.log"
            wait_until(lambda: '"connection.up"' in log.read_text(), "the agent is connected", 30)
            checked = hsmd(directory, "agent", "check", "www", "--user", str(UID), *files).stdout
            assert f"permissions: {UID} may use {directory}/agent.sock" in checked
            assert f"local policy: {UID} may use www" in checked
        finally:
            agent.stop()
    finally:
        daemon.stop()

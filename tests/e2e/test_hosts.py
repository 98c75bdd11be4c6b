"""Two hosts with a systemd of their own: the shipped units start, and serve a handshake; then nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.hosts import Bed, requirements
from tests.support.polling import wait_until
from tests.support.processes import ROOT

_KILLED = """
import sys
from tests.support.hosts import Bed, roots

bed = Bed()
bed.host("alone", roots.machine(), {bed.network("10.9.0.254/24"): "10.9.0.1"})
bed.boot()
print(bed.hosts[0].pid, flush=True)
sys.stdin.read()
"""


def left_by(pid: int) -> list[Path]:
    """cgroups and directories that a test made."""
    places = (requirements.cgroup_mount(), Path(tempfile.gettempdir()))
    return [path for place in places for path in place.glob(f"hsmd-hosts-{pid}-*")]


def test_nothing_is_left_of_a_test_that_was_killed() -> None:
    test = subprocess.Popen(
        [sys.executable, "-c", _KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert test.stdin is not None
    assert test.stdout is not None
    with test.stdin, test.stdout:
        init = int(test.stdout.readline())
        assert Path(f"/proc/{init}/comm").read_text() == "systemd\n"
        assert left_by(test.pid)
        test.send_signal(signal.SIGKILL)
        test.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{init}"), "the host ends with the test")
    with Bed():
        assert left_by(test.pid) == []

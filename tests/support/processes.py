"""Programs that tests start and end: processes with a log file each, which end with the test run."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 15.0
POLL_S = 0.02
_PR_SET_PDEATHSIG = 1

PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "apache2": "apache2-bin",
    "openssl": "openssl",
    "curl": "curl",
    "softhsm2-util": "softhsm2",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "gcc": "gcc",
    "sudo": "sudo",
    "certtool": "gnutls-bin",
    "jq": "jq",
    "java": "default-jdk-headless",
}
"""Debian packages of the programs that tests run."""

_libc = ctypes.CDLL(None, use_errno=True)


def program(name: str) -> str:
    """The path of a program. A missing one fails the test with the name of its package."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise AssertionError(f"{name} is not installed; on Debian: apt install {PACKAGES[name]}")
    return found


def hsmd(*arguments: str | Path) -> list[str]:
    """The command line of an `hsmd` command."""
    return [sys.executable, "-m", "hsmd.cli", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment for a child process, in which hsmd can be imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENSSL_", "SOFTHSM2_"))
    }
    return {**kept, "PYTHONPATH": path, **more}


def run(
    command: Sequence[str | Path], *, timeout_s: float = 60.0, text: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `more` are environment variables."""
    return subprocess.run(
        [str(word) for word in command],
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=environment(**more),
        cwd=ROOT,
        check=False,
    )


class Process:
    """A running program in a separate session; its output goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        variables: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(**(variables or {})),
                cwd=ROOT,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self.child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.child.poll() is None

    def check(self, what: str) -> None:
        """Raise AssertionError with the end of its log if it has ended."""
        assert self.running, f"{what} ended with {self.child.returncode}:\n{self.log.read_text()[-4000:]}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.child.send_signal(number)

    def wait(self, seconds: float = STOP_S) -> int:
        """Wait for its end; return its exit status."""
        return self.child.wait(seconds)

    def stop(self) -> None:
        """End it with SIGTERM, then kill everything left in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)
        if self.running:
            self.child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait()


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_line(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

"""Child processes that end with this process, and waiting until a child or the parent ends."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hsmd.cli.base.errors import CommandError
from hsmd.system.process import die_with_parent

STOP_S = 8.0
"""Time for a child to terminate before its whole session is killed."""


class Terminated(BaseException):
    """A signal requested termination. Not an Exception, so that no handler treats it as an error."""


def follow_parent() -> None:
    """Send this process SIGTERM when its parent exits (prctl(2)). Raises Terminated if it has exited already."""
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        raise Terminated


@contextmanager
def terminated_by_signals() -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP raise Terminated inside the block.

    After the first signal the others are ignored, so that the clean-up is not interrupted.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def terminate(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated

    before = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(
    arguments: Sequence[str], *, pass_fds: Sequence[int] = (), log: int, run_time_directory: Path
) -> subprocess.Popen[bytes]:
    """Start an `hsmd` command as a child in its own session; it ends with this process.

    Its output goes to `log`; `run_time_directory` is its RUNTIME_DIRECTORY, which a service gets from systemd.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "hsmd.cli", *arguments],
        env={**os.environ, "RUNTIME_DIRECTORY": str(run_time_directory)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def stop(child: subprocess.Popen[bytes]) -> None:
    """Terminate a child; then kill every process that is left in its session."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def wait_for(done: Callable[[], bool], what: str, *, seconds: float, child: subprocess.Popen[bytes]) -> None:
    """Poll until `done`. Raises CommandError if the child ends first or after `seconds`."""
    ends = time.monotonic() + seconds
    while not done():
        if child.poll() is not None:
            raise CommandError(
                f"{what} exited during start with code {child.returncode}", "see its log above"
            )
        if time.monotonic() >= ends:
            raise CommandError(f"{what} was not ready after {seconds:.0f} s", "see its log above")
        time.sleep(0.02)


def wait_for_the_end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Return when a child has ended, or when the other end of standard input is closed.

    Standard input is only watched if it is a pipe or a socket; a terminal or /dev/null does not depend on the parent.
    """
    watched = [os.pidfd_open(child.pid) for child in children]
    try:
        poll = select.poll()
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        if _has_peer(0):
            poll.register(0, select.POLLIN | select.POLLHUP)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != 0 or not os.read(0, 4_096):
                    return
    finally:
        for descriptor in watched:
            os.close(descriptor)


def _has_peer(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

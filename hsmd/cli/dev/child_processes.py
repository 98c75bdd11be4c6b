"""Processes that end together: children that die with us, us that die with our parent, and a wait for whichever comes first."""

from __future__ import annotations

import ctypes
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

_PR_SET_PDEATHSIG = 1
STOP_S = 8.0
"""Time for a child to end in good order before it is killed with its whole session."""

_libc = ctypes.CDLL(None, use_errno=True)


class Told(BaseException):
    """A signal told us to end. Not an Exception: nothing on the way may take it for a fault."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def follow_parent() -> None:
    """From now on this process gets SIGTERM when its parent dies (prctl(2)); raises Told if that is too late already."""
    parent = os.getppid()
    _die_with_parent()
    if os.getppid() != parent:
        raise Told


@contextmanager
def told_by_signals() -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP raise Told inside the block.

    After the first of them the others are ignored, so that cleaning up is not interrupted.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def tell(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Told

    before = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(
    arguments: Sequence[str], *, pass_fds: Sequence[int] = (), log: int, run_time_directory: Path
) -> subprocess.Popen[bytes]:
    """An `hsmd` command as a child with a session of its own that ends when we do.

    Its standard error goes to `log`, its locks into `run_time_directory`, where a service would have RUNTIME_DIRECTORY.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "hsmd.cli", *arguments],
        env={**os.environ, "RUNTIME_DIRECTORY": str(run_time_directory)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a child: first politely, then with everything in its session."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def wait_for(done: Callable[[], bool], what: str, *, seconds: float, child: subprocess.Popen[bytes]) -> None:
    """Polls until `done`; raises CommandError when the child ends or time is up before that."""
    ends = time.monotonic() + seconds
    while not done():
        if child.poll() is not None:
            raise CommandError(f"{what} ended at once with code {child.returncode}", "its log above says why")
        if time.monotonic() >= ends:
            raise CommandError(f"{what} was not ready after {seconds:.0f} s", "its log above says why")
        time.sleep(0.02)


def wait_for_the_end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Returns when one of the children has ended, or when whoever holds the other end of our standard input is gone.

    Standard input counts if it is a pipe or a socket; a terminal or /dev/null says nothing about our parent.
    """
    watched = [os.pidfd_open(child.pid) for child in children]
    try:
        poll = select.poll()
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        if _has_a_holder(0):
            poll.register(0, select.POLLIN | select.POLLHUP)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != 0 or not os.read(0, 4_096):
                    return
    finally:
        for descriptor in watched:
            os.close(descriptor)


def _has_a_holder(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

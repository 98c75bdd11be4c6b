"""Crash attribution: which job a worker was carrying out when it crashed.

The front sees a socket close and, in the progress page, which job had begun and not ended; the launcher sees how the process
ended. It takes both to conclude that a job crashed a worker, and they arrive in either order.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from hsmd.daemon.front.tokens.jobs import Job

CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS}
)
"""Signals that a faulty module raises. SIGKILL and SIGTERM come from outside."""
MAX_WAITING = 64
"""Workers of which only one of the two is known, at most."""


class CrashAttribution:
    """Matches lost jobs with crashed processes, by process id."""

    def __init__(self, crashed: Callable[[Job], None]) -> None:
        """`crashed` is called for each job during which a worker crashed."""
        self._crashed = crashed
        self._jobs: dict[int, Job] = {}
        self._crashes: dict[int, None] = {}

    def begun(self, pid: int) -> None:
        """A worker was started: forget an earlier process with the same id."""
        self._jobs.pop(pid, None)
        self._crashes.pop(pid, None)

    def lost(self, pid: int, job: Job | None) -> None:
        """The front has lost a worker that was carrying out this job, or none."""
        if job is None:
            return
        if pid in self._crashes:
            del self._crashes[pid]
            self._crashed(job)
            return
        _make_room(self._jobs)
        self._jobs[pid] = job

    def ended(self, pid: int, by_signal: int) -> None:
        """A worker's process ended, by a signal or by itself (0), as the launcher reports."""
        job = self._jobs.pop(pid, None)
        if by_signal not in CRASHES:
            return
        if job is not None:
            self._crashed(job)
            return
        _make_room(self._crashes)
        self._crashes[pid] = None


def _make_room(waiting: dict[int, Job] | dict[int, None]) -> None:
    while len(waiting) >= MAX_WAITING:
        del waiting[next(iter(waiting))]

"""Start-up of long-running processes: no core dumps, no tracing, no new privileges, scheduling, garbage collection."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_YOUNG_OBJECTS = 10_000
"""Allocations between collections of the youngest generation; a batch of requests needs far fewer."""

_libc = ctypes.CDLL(None, use_errno=True)


def harden() -> None:
    """Disable core dumps, access by processes of the same user (ptrace, /proc/PID/mem) and set-user-ID rights (prctl(2)).

    Raises OSError.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, option, value in (("DUMPABLE", _PR_SET_DUMPABLE, 0), ("NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)):
        if _libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl(PR_SET_{name})")


def die_with_parent() -> None:
    """Send this process SIGTERM when the thread that started it ends (prctl(2)): for `preexec_fn`, so it allocates little."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run_as_batch() -> None:
    """Do not preempt the running process on wake-up (SCHED_BATCH of sched(7)); needs no privilege. See docs/adr/0005.

    Waking up for a single request costs more than the request. On a busy machine it is better to run once the requesting
    process gives up the CPU: by then other requests have arrived, and one packet and one audit write serve all of them. On
    an idle machine this has no effect.
    """
    if os.sched_getscheduler(0) != os.SCHED_BATCH:  # a unit with CPUSchedulingPolicy=batch forbids the call
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


let_others_ask = os.sched_yield
"""Let processes that are ready on this CPU run first: about a microsecond when there are none."""


def tune_garbage_collection() -> None:
    """Exclude all existing objects from garbage collection, and bound what waits for it. Call once the long-lived objects exist.

    Key operations leave no cycles, but each connection of asyncssh is one of 16 kB.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the oldest generation is collected by the number of objects that this call finds in it
    gc.set_threshold(_YOUNG_OBJECTS, 3, 3)

"""What our long-running processes do when they start: no dumps, no tracing, no new rights, calm garbage collection."""

from __future__ import annotations

import ctypes
import gc
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_YOUNG_OBJECTS = 50_000
"""Allocations between collections of the youngest generation; batches of requests live and die well within that."""


def harden() -> None:
    """No core dump, no ptrace or /proc/PID/mem by processes of the same user, no rights by set-user-ID programs (prctl(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for name, option, value in (("DUMPABLE", _PR_SET_DUMPABLE, 0), ("NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl(PR_SET_{name})")


def run_as_batch() -> None:
    """Wake up without pushing aside whoever runs (sched(7), SCHED_BATCH); needs no privilege.

    Waking up for a single request costs more than the request. On a busy machine it is better to run when the process that
    asked gives the CPU up by itself: by then others have asked too, and one packet and one audit write serve them all. On
    an idle machine this has no effect.
    """
    if (
        os.sched_getscheduler(0) != os.SCHED_BATCH
    ):  # a unit with CPUSchedulingPolicy=batch lets nobody change it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


let_others_ask = os.sched_yield
"""Let processes that are ready on this CPU run first: about a microsecond when there are none."""


def tune_garbage_collection() -> None:
    """Call once everything long-lived exists: it is never looked at again, and collections become rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)

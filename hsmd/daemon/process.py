"""What every process next to the HSM does when it starts: no dumps, no tracing by others, calm garbage collection."""

from __future__ import annotations

import ctypes
import gc
import resource

_PR_SET_DUMPABLE = 4
_YOUNG_OBJECTS = 50_000
"""Allocations between collections of the youngest generation; batches of requests live and die well within that."""


def harden() -> None:
    """No core dump, and no ptrace or /proc/PID/mem by processes of the same user (prctl(2), PR_SET_DUMPABLE)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def tune_garbage_collection() -> None:
    """Call once everything long-lived exists: it is never looked at again, and collections become rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)

"""Locking a worker's memory, so that keys and PINs are never swapped to disk (mlockall(2))."""

from __future__ import annotations

import ctypes
import os
import resource

from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.errors import Unavailable

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def lock_memory(settings: WorkerSettings) -> str:
    """Lock this process's memory as `settings.lock_memory` requires. Returns why that failed, empty if it did not.

    Raises Unavailable if it is required ("always") and not possible.
    """
    if settings.lock_memory == "never":
        return ""
    reason = _lock()
    if reason and settings.lock_memory == "always":
        raise Unavailable(detail=f"memory cannot be locked: {reason}")
    return reason


def _lock() -> str:
    """Lock mapped and future pages, each when it is first used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        # With a finite limit a later allocation could fail in the middle of a signature.
        return (
            f"the limit is {hard // 1024} KiB; start the daemon with LimitMEMLOCK=infinity, as its unit does"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return os.strerror(ctypes.get_errno())
    return ""

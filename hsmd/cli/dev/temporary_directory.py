"""Temporary directories that are locked while in use, so that the next run can remove abandoned ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "hsmd-dev-"
_LOCK = "in-use"


@contextmanager
def directory() -> Iterator[Path]:
    """A private directory for the duration of the block. Also removes directories of processes that were killed."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    new = Path(tempfile.mkdtemp(prefix="hsmd-new-"))
    (new / _LOCK).touch(mode=0o600)
    lock = _lock(new / _LOCK)
    # Renamed after locking: no other process finds the directory without its lock.
    path = new.rename(new.with_name(new.name.replace("hsmd-new-", _PREFIX)))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or being removed by another process
            lock = _lock(path / _LOCK)
            if path.lstat().st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(path: Path) -> int:
    """A descriptor that holds the lock. Raises OSError if another process holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

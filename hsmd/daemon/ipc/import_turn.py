"""One import into a token at a time: each starts a process, writes objects and has all workers look for the new key.

Several at once, on a host with few cores, took so long from the workers that they were believed to hang.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hsmd.errors import Unavailable
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.start_lock import lock_path

WAIT_S = 300.0
"""Longest wait for imports before this one, each of which takes about a second."""
_POLL_S = 0.05


@contextmanager
def import_turn(settings: TokenSettings, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Wait until no other import into this token, by this user of this host, is under way. Raises Unavailable."""
    path = lock_path(settings)
    path = path.with_name(f"{path.name}.import")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(
            f"{path}: {error.strerror}; set lock_file to a path that this user can write"
        ) from None
    try:
        _lock(descriptor, time.monotonic() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Unavailable("other imports into this token go on and on; try again later") from None
            time.sleep(_POLL_S)

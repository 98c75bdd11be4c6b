"""The start lock: processes that open a token initialise its module one after the other and share which PIN was refused.

SoftHSM fails about one start in ten if four processes initialise it at once, and a refused PIN must not be tried by every
worker until the token locks. For both, all processes on this host that choose the token with the same settings share a file
that is locked with flock. It holds no secret, only the version of the PIN file that was refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import stat
import time
from pathlib import Path
from types import TracebackType

from hsmd.errors import Unavailable
from hsmd.pkcs11.settings import TokenSettings

LOCK_WAIT_S = 15.0
"""Longest wait for other workers: a start takes about 0.1 s, and the pool kills a worker that hangs."""
_POLL_S = (0.005, 0.025)
_MAX_NOTE_BYTES = 512


class StartLock:
    """Held while a worker initialises the module and logs in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> StartLock:
        """Take the lock. Raises Unavailable if the file cannot be opened or other workers hold the lock for too long."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise Unavailable(
                f"start lock {self._path}: {error.strerror}; set lock_file to a path that this user can write"
            ) from None
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @property
    def note(self) -> str:
        """Version of the PIN file of the last login, if it was refused; otherwise empty."""
        return os.pread(self._fd, _MAX_NOTE_BYTES, 0).decode("ascii", "replace")

    def write_note(self, note: str) -> None:
        """Record the version of a refused PIN file; an empty string deletes the record."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, note.encode("ascii"), 0)

    def _wait(self) -> None:
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    os.close(self._fd)
                    raise Unavailable(
                        f"another process has been starting the token for {LOCK_WAIT_S:.0f} s; it holds {self._path}"
                    ) from None
                time.sleep(random.uniform(*_POLL_S))


def lock_path(settings: TokenSettings) -> Path:
    """The lock file of the token in `settings`. Raises Unavailable if there is no safe directory for it."""
    if settings.lock_file:
        return Path(settings.lock_file)
    selection = (
        f"{settings.module}\0{settings.label}\0{settings.serial}\0{settings.slot}\0{settings.pin_file}"
    )
    name = hashlib.sha256(selection.encode()).hexdigest()[:24]
    return _own_directory() / f"token-{name}.lock"


def _own_directory() -> Path:
    """systemd's run-time directory, the user's, or a directory in /tmp that only this user can write to."""
    for candidate in (os.environ.get("RUNTIME_DIRECTORY", ""), f"/run/user/{os.getuid()}"):
        if candidate and os.access(candidate, os.W_OK):
            return Path(candidate)
    directory = Path(f"/tmp/hsmd-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Unavailable(f"{directory} belongs to another user or is writable for others; set lock_file")
    return directory

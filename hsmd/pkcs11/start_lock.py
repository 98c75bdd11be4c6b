"""The start lock: processes that open a token initialise its module one after the other and share which PIN was refused.

SoftHSM fails about one start in ten if four processes initialise it at once, and a refused PIN must not be tried by every
worker until the token locks. For both, all processes on this host that choose the token with the same settings share a file
that is locked with flock. It holds no secret, only the version of the PIN file that was refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hsmd.errors import Unavailable
from hsmd.pkcs11.settings import TokenSettings

LOCK_WAIT_S = 60.0
"""Longest wait for other workers: a start takes 0.1 s, with 10,000 keys in SoftHSM seconds. The pool kills one that hangs."""
_POLL_S = (0.005, 0.025)
_MAX_NOTE_BYTES = 512
_RUN_TIME_DIRECTORIES = Path("/run/user")
_TEMPORARY = Path("/tmp")


class StartLock:
    """Held while a worker initialises the module and logs in."""

    def __init__(self, path: Path, waiting: Callable[[], None] = lambda: None) -> None:
        """`waiting` is called now and then while others hold the lock."""
        self._path = path
        self._waiting = waiting
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
                self._waiting()
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
    """A directory that only this user can write to, the same for all its processes.

    That is systemd's run-time directory, the user's own, one in the user's cache directory, or one in /tmp. The last comes
    last because another user can take its name.
    """
    for candidate in (os.environ.get("RUNTIME_DIRECTORY", ""), str(_RUN_TIME_DIRECTORIES / str(os.getuid()))):
        if candidate and os.access(candidate, os.W_OK):
            return Path(candidate)
    if (cache := _cache_directory()) is not None:
        return cache
    directory = _TEMPORARY / f"hsmd-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(directory):
        raise Unavailable(
            f"{directory} belongs to another user or is writable for others: remove it, or set lock_file of the token "
            "to a path that this user can write"
        )
    return directory


def _cache_directory() -> Path | None:
    """hsmd's directory below the user's home; None if it cannot be had.

    Workers inherit no HOME or XDG_CACHE_HOME, so the account's home comes first: all processes must find the same directory.
    """
    directory = Path(_home(), ".cache", "hsmd")
    if not directory.is_absolute() or not _is_private(directory.parents[1]):
        return None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory if _is_private(directory) and os.access(directory, os.W_OK) else None
    except OSError:
        return None


def _home() -> str:
    """The home directory of this user; empty if there is none. In containers a user may have no account."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "")


def _is_private(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022

"""The file that holds the cursor of the last event that was dealt with; one process at a time uses it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.profile import Profile
from hsmd.errors import BadRequest
from hsmd.protocol.cursor import Cursor
from hsmd.system import atomic_file, host_users

MAX_BYTES = 128
READABLE = 100
"""Characters of the name of a file that tell people what it is for."""


def default_file(profile: Profile, command: Sequence[str]) -> Path:
    """Where the cursor of a program is saved: one file for each daemon, client and command, arguments included.

    The arguments are only hashed: they may be longer than a name, or not meant for a list of files.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{profile.daemon}-{profile.user}-{Path(command[0]).name}")
    digest = sha256(repr(list(command)).encode()).hexdigest()
    return _state_directory() / "events" / f"{readable[:READABLE]}-{digest[:8]}"


def _state_directory() -> Path:
    """The directory for what hsmd remembers between runs: behind sudo that of root, which follows no link of the user."""
    trusted = "SUDO_UID" not in os.environ
    own = os.environ.get("XDG_STATE_HOME") if trusted else None
    home = host_users.own_home() if trusted else host_users.by_uid(os.geteuid()).home
    return (Path(own) if own else home / ".local" / "state") / "hsmd"


class CursorFile:
    """A context manager. Without a path, nothing is read or saved."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = -1
        self.cursor = ""
        """The saved cursor; empty if there is none."""

    def __enter__(self) -> CursorFile:
        """Raises CommandError if another process uses the file, or it holds no cursor, and OSError."""
        if self.path is not None:
            if self.path.exists() and not self.path.is_file():
                raise CommandError(f"{self.path} is not a file", "name another one with --state", Exit.USAGE)
            self.path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._take_lock(self.path.with_name(f"{self.path.name}.lock"))
            self.cursor = self._read(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            os.close(self._lock)

    def save(self, cursor: str) -> None:
        """Replace the saved cursor. Raises OSError; the file then holds the one before."""
        if self.path is not None:
            atomic_file.replace(self.path, f"{cursor}\n")

    def _take_lock(self, path: Path) -> None:
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise CommandError(
                f"another `hsmd events` uses {self.path}",
                "stop it, or name another file with --state",
                Exit.USAGE,
            ) from None

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        try:
            return str(Cursor.parse(text))
        except BadRequest:
            raise CommandError(
                f"{path} holds no cursor",
                "remove it to begin anew, or name another file with --state",
                Exit.USAGE,
            ) from None

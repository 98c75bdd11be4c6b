"""Files that set-up commands write: all or nothing, never over something that is there, closed to others from the first byte."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.failures import Stop
from hsmd.system import atomic_file

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700
SHARED_DIRECTORY = 0o755
"""For directories that also hold public files, which other users of the host read."""


def write_new(path: Path, content: str | bytes, mode: int) -> None:
    """Create `path` with all of `content` or not at all. Raises Stop if it exists."""
    try:
        atomic_file.create(path, content, mode)
    except FileExistsError:
        raise exists(path) from None


def exists(path: Path) -> Stop:
    """The refusal to overwrite."""
    return Stop(
        f"{path} exists already and is not overwritten", "move it away first, or choose another place"
    )


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Makes `path`, and its parents with ordinary modes; leaves what is there as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Person:
    """Who typed the command, also behind sudo: their files belong to them, not to root."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def configuration(self) -> Path:
        """Their directory for hsmd; $XDG_CONFIG_HOME counts for one's own session only."""
        own = os.environ.get("XDG_CONFIG_HOME") if self.uid == os.geteuid() else None
        return (Path(own) if own else self.home / ".config") / "hsmd"

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Touches files with this person's rights only, so that no link in their home leads root anywhere."""
        if os.geteuid() != 0 or self.uid == 0:
            yield
            return
        group = os.getegid()
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(group)


def person() -> Person:
    """The person at the keyboard: the user who called sudo if there is one, else the process's own user."""
    behind = os.environ.get("SUDO_UID", "")
    uid = int(behind) if os.geteuid() == 0 and behind.isdecimal() else os.geteuid()
    entry = pwd.getpwuid(uid)
    home = os.environ.get("HOME") if uid == os.geteuid() and not behind else None
    return Person(entry.pw_name, uid, entry.pw_gid, Path(home or entry.pw_dir))

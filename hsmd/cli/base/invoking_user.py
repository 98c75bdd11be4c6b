"""The user who ran the command, also behind sudo."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InvokingUser:
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


def invoking_user() -> InvokingUser:
    """The person at the keyboard: the user who called sudo if there is one, else the process's own user."""
    behind = os.environ.get("SUDO_UID", "")
    uid = int(behind) if os.geteuid() == 0 and behind.isdecimal() else os.geteuid()
    entry = pwd.getpwuid(uid)
    home = os.environ.get("HOME") if uid == os.geteuid() and not behind else None
    return InvokingUser(entry.pw_name, uid, entry.pw_gid, Path(home or entry.pw_dir))

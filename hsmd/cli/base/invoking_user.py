"""The user who ran the command, also behind sudo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsmd.system import host_users


@dataclass(frozen=True, slots=True)
class InvokingUser:
    """The user who owns the files that the command writes to a home directory; not root behind sudo."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def configuration(self) -> Path:
        """The user's configuration directory for hsmd; $XDG_CONFIG_HOME applies only without sudo."""
        own = os.environ.get("XDG_CONFIG_HOME") if self.uid == os.geteuid() else None
        return (Path(own) if own else self.home / ".config") / "hsmd"

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Access files with this user's privileges, so that root follows no link in the home directory."""
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
    """The user who called sudo, otherwise the user of this process."""
    behind = os.environ.get("SUDO_UID", "")
    uid = int(behind) if os.geteuid() == 0 and behind.isdecimal() else os.geteuid()
    found = host_users.by_uid(uid)
    home = host_users.own_home() if uid == os.geteuid() and not behind else found.home
    return InvokingUser(found.name, uid, found.gid, home)

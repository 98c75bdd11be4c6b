"""Owners of a daemon's files if it is started as root and drops privileges."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.daemon_toml import Layout
from hsmd.cli.base.system_users import requires_root, system_user


@dataclass(frozen=True, slots=True)
class Users:
    """The users of front process and workers; None for the current user."""

    front: pwd.struct_passwd | None
    workers: pwd.struct_passwd | None

    @classmethod
    def from_options(cls, front: str, workers: str) -> Users:
        """The users that --front-user and --worker-user name, empty for None. Raises CommandError."""
        return cls(_user("--front-user", front), _user("--worker-user", workers))

    @classmethod
    def from_settings(cls, front: str, workers: str) -> Users:
        """The users that hsmd.toml names, for root; None for other users. Raises CommandError for unknown ones."""
        if os.geteuid() != 0:
            return cls(None, None)
        return cls(_user("users.front", front), _user("users.workers", workers))

    def give_to_front(self, path: Path) -> None:
        """Make the front process's user the owner of `path`."""
        if self.front is not None:
            os.chown(path, self.front.pw_uid, self.front.pw_gid, follow_symlinks=False)

    def let_front_read(self, path: Path) -> None:
        """Let the front process read `path`, which root owns."""
        if self.front is not None:
            os.chown(path, 0, self.front.pw_gid, follow_symlinks=False)
            path.chmod(0o640)

    def give_all(self, layout: Layout, softhsm: Path | None) -> None:
        """Change owners: host key and store to the front process, a software token to the workers."""
        for path in (layout.state, layout.host_key, layout.database):
            self.give_to_front(path)
        if softhsm is None or self.workers is None:
            return
        layout.state.chmod(0o711)  # workers need to enter it to reach their token
        for path in (softhsm, *softhsm.rglob("*")):
            os.chown(path, self.workers.pw_uid, self.workers.pw_gid, follow_symlinks=False)


def _user(option: str, name: str) -> pwd.struct_passwd | None:
    if not name:
        return None
    if os.geteuid() != 0:
        raise requires_root(option, name)
    return system_user(name, option)

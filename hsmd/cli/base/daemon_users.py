"""Owners of a daemon's files if it is started as root and drops privileges."""

from __future__ import annotations

import os
import pwd
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.daemon_toml import Layout
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.system_users import create_for_now, is_user, requires_root, system_user

FRONT_USER, WORKER_USER = "hsmd", "hsmd-token"
"""The users of a daemon that root sets up, unless others are named."""


@dataclass(frozen=True, slots=True)
class UserNames:
    """The names of the users of front process and workers; empty for the user who starts the daemon."""

    front: str
    workers: str

    def create_missing(self, undo: ExitStack) -> None:
        """Create those that do not exist; `undo` removes them. Raises CommandError."""
        for name in dict.fromkeys((self.front, self.workers)):
            if name and not is_user(name):
                create_for_now(undo, name)


def names_of_separate_users(front: str, workers: str, *, create: bool) -> UserNames:
    """The users of a daemon that root sets up: those named, otherwise `FRONT_USER` and `WORKER_USER`.

    Raises CommandError if one does not exist and none are to be created, or if both are the same or one is root.
    """
    names = UserNames(front or FRONT_USER, workers or WORKER_USER)
    if names.front == names.workers:
        raise CommandError(
            f"front process and workers would both run as {names.front}, and the front process could read the PIN",
            "name two users with --front-user and --worker-user",
            Exit.USAGE,
        )
    missing = [name for name in (names.front, names.workers) if not is_user(name)]
    if missing and not create:
        raise CommandError(
            f"there is no user {' and no user '.join(missing)} for front process and workers, which must not run as root",
            "add --create-users, or name other users with --front-user and --worker-user",
            Exit.USAGE,
        )
    return names


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
            if path.exists():  # a shared store is elsewhere
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

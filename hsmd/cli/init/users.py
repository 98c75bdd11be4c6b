"""The users that the daemon of `hsmd init` runs as."""

from __future__ import annotations

import os

from hsmd.cli.base.daemon_users import FRONT_USER, UserNames, names_of_separate_users
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.system_users import requires_root


def user_names(front: str, workers: str, *, create: bool, as_root: bool, softhsm: bool) -> UserNames:
    """The users of front process and workers. Raises CommandError unless root separates them, or wants it otherwise."""
    if as_root and (front or workers or create):
        raise CommandError(
            "--run-as-root excludes the options that name or create users", "omit one", Exit.USAGE
        )
    named = front or workers or create
    if as_root or (os.geteuid() != 0 and not create) or (softhsm and not named):
        return UserNames(front, workers)
    if os.geteuid() != 0:
        raise requires_root("--create-users", front or FRONT_USER)
    return names_of_separate_users(front, workers, create=create)

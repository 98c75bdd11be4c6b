"""Users of this host that own files of a daemon or an agent."""

from __future__ import annotations

import pwd

from hsmd.cli.base.errors import CommandError, Exit


def system_user(name: str, option: str) -> pwd.struct_passwd:
    """The user `name`, which `option` gave. Raises CommandError if there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise CommandError(
            f"{option}: there is no user {name}", f"create it: useradd --system {name}", Exit.USAGE
        ) from None


def requires_root(option: str, name: str) -> CommandError:
    """The error of an `option` that gives files to user `name` without root privileges."""
    return CommandError(
        f"{option} requires root, to change the owner of files to {name}",
        "run the command with sudo, or omit the option",
        Exit.USAGE,
    )

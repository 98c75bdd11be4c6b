"""Users of this host that own files of a daemon or an agent."""

from __future__ import annotations

import pwd
import subprocess
from contextlib import ExitStack

from hsmd.cli.base import programs
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


def is_user(name: str) -> bool:
    """Whether this host has a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def create_for_now(undo: ExitStack, name: str) -> None:
    """Create a system user with a group of its own, which cannot log in; `undo` removes it. Raises CommandError."""
    _run(
        "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
        "--shell", "/usr/sbin/nologin", name,
    )  # fmt: skip
    undo.callback(_run, "userdel", name)


def _run(program: str, *arguments: str) -> None:
    path = programs.find(program, programs.SYSTEM_PATH)
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = "; ".join(done.stderr.split("\n")).strip("; ")
        raise CommandError(
            f"{program} {arguments[-1]} failed: {reason}", "create the user, and run the command again"
        )

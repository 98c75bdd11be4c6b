"""Programs of this host that commands start, and what to install where one is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from traceback import walk_tb

from hsmd.cli.base.errors import CommandError

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
PACKAGES = {"useradd": "passwd", "userdel": "passwd", "softhsm2-util": "softhsm2"}
"""The packages of Debian with programs that have another name."""


def find(name: str, path: str = "") -> str:
    """The path of a program, looked for in `path`, otherwise in $PATH and the directories of the system.

    Raises CommandError that names the program and its package.
    """
    found = shutil.which(name, path=path or ":".join(filter(None, (os.environ.get("PATH"), SYSTEM_PATH))))
    if found is None:
        raise CommandError(f"the program {name} is not installed", _installation(name))
    return found


def not_started(error: OSError) -> CommandError | None:
    """The error of a program that could not be started; None for errors about anything else.

    Python's exception tells no difference between a program and a file, but where it was raised.
    """
    if not any(frame.f_globals.get("__name__") == "subprocess" for frame, _ in walk_tb(error.__traceback__)):
        return None
    program = os.fsdecode(error.filename or "")
    name = Path(program).name or "a program"
    if isinstance(error, FileNotFoundError):
        return CommandError(f"the program {name} is not installed", _installation(name))
    return CommandError(
        f"the program {program} cannot be started: {error.strerror}",
        "check its permissions, or install it again",
    )


def _installation(name: str) -> str:
    return f"install it: apt-get install {PACKAGES.get(name, name)}"

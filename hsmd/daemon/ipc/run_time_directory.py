"""A private run-time directory for the workers of another user, where systemd has made none.

Their start lock needs a place whose name no other user can take first, as in /tmp.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from hsmd.system import directories

_PARENT = Path("/run/hsmd-workers")


def for_user(user: str) -> str:
    """The run-time directory for workers of `user`; empty if this process may not make one."""
    account = pwd.getpwnam(user)
    directory = _PARENT / user
    try:
        directories.make(_PARENT, directories.SHARED)
        if not _is_private_of(os.geteuid(), _PARENT):
            return ""
        directory.mkdir(mode=0o700, exist_ok=True)
        os.chown(directory, account.pw_uid, account.pw_gid, follow_symlinks=False)
        return str(directory) if _is_private_of(account.pw_uid, directory) else ""
    except OSError:
        return ""


def _is_private_of(uid: int, directory: Path) -> bool:
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o022

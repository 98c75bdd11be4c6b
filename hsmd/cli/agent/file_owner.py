"""The owner of the files of a new agent."""

from __future__ import annotations

import os
from pathlib import Path

from hsmd.cli.base.system_users import requires_root, system_user

_OPTION = "--owner"


def give(path: Path, owner: str) -> None:
    """Make `owner` the owner of `path`; do nothing if `owner` is empty. Raises CommandError for an unknown user."""
    if owner:
        user = system_user(owner, _OPTION)
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def check(owner: str) -> None:
    """Raise CommandError if `give` would fail."""
    if owner and os.geteuid() not in (0, system_user(owner, _OPTION).pw_uid):
        raise requires_root(_OPTION, owner)

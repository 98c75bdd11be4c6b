"""Directories and files that say what root installs where: refused if another user than root could write them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hsmd.errors import ConfigurationError
from hsmd.system.places import directories_to

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_way(path: Path) -> None:
    """As `check`, for all directories that lead to `path`: who can rename one, can put another in its place.

    In a directory such as /tmp, others can replace only what is theirs (the sticky bit). Raises ConfigurationError or OSError.
    """
    for directory, found in directories_to(path):
        if not found.st_mode & stat.S_ISVTX or found.st_uid not in (0, os.geteuid()):
            check(directory, found)


def check(path: Path, found: os.stat_result) -> None:
    """Raises ConfigurationError unless `found` belongs to root, or the user who runs this, and only its owner may write it."""
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            str(path), [f"belongs to user {found.st_uid}, who could change it; run: chown root {path}"]
        )
    if found.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            str(path), [f"other users than its owner may write it; run: chmod go-w {path}"]
        )

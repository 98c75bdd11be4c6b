"""Who can change where a path leads: the owners of the directories on the way to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsmd.system import host_users

_MOST_LINKS = 40
"""As many as Linux follows (path_resolution(7))."""


def directories_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The directories that lead to `path`, the root first; through links, those behind them, too.

    Ends where a directory does not exist. Raises OSError.
    """
    here, rest, links = Path("/"), list(reversed(path.absolute().parent.parts[1:])), 0
    yield here, here.lstat()
    while rest:
        step = here / rest.pop()
        try:
            found = step.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISLNK(found.st_mode):
            here = step if step.name != ".." else here.parent
            yield step, found
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"{path}: it leads through too many links")
        target = Path(os.readlink(step))
        if target.is_absolute():
            here = Path("/")
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def other_owner(path: Path, below: Path = Path("/")) -> int | None:
    """The first user, neither root nor this one, who owns a directory on the way to `path`; None if there is none.

    Nothing before that directory can be changed by others, and everything behind it by that user. The way to `below`, and that
    directory, are trusted. Raises OSError.
    """
    trusted = {each for start in (below.absolute(), below.resolve()) for each in (start, *start.parents)}
    for directory, found in directories_to(path):
        if found.st_uid not in (0, os.geteuid()) and directory not in trusted:
            return found.st_uid
    return None


@contextmanager
def acting_for(path: Path, below: Path = Path("/")) -> Iterator[None]:
    """As root, act as the user who could let `path` lead elsewhere, if there is one: links then give that user nothing.

    `below` as for `other_owner`. For one thread at a time: the ids are those of the whole process. Raises OSError.
    """
    owner = other_owner(path, below) if os.geteuid() == 0 else None
    if owner is None:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(host_users.by_uid(owner).gid)
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)

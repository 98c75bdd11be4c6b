"""Users and groups of this host, by name or number; a user without an entry in the user database is its number."""

from __future__ import annotations

import grp
import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAX_DIGITS = 10
"""Ids are 32 bits."""
_HIGHEST = 0xFFFF_FFFE
"""The id after it, -1, means "no change" to chown(2)."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user; containers run programs as users that the user database does not know."""

    name: str
    uid: int
    gid: int
    home: Path


def by_uid(uid: int) -> Account:
    """The user with this id. Without an entry its name is the number, and `home` is the root directory."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, os.getegid() if uid == os.geteuid() else uid, Path("/"))
    return Account(entry.pw_name, uid, entry.pw_gid, Path(entry.pw_dir))


def own_home() -> Path:
    """The home directory of this process's user: $HOME, else what the user database says."""
    return Path(os.environ.get("HOME") or by_uid(os.geteuid()).home)


def expand_home(path: str) -> Path:
    """`path` with a leading `~` or `~USER` replaced; left as it is if the user has no home directory."""
    if path == "~" or path.startswith("~/"):
        return own_home() / path[2:]
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def find(text: str) -> Account | None:
    """The user with this name or decimal number; None for an unknown name."""
    uid = uid_of(text)
    return None if uid is None else by_uid(uid)


def uid_of(text: str) -> int | None:
    """The id that the name or number of a user stands for; None for an unknown name."""
    number = _number(text)
    if number is not None:
        return number
    with suppress(KeyError, ValueError):
        return pwd.getpwnam(text).pw_uid
    return None


def gid_of(text: str) -> int | None:
    """The id that the name or number of a group stands for; None for an unknown name."""
    number = _number(text)
    if number is not None:
        return number
    with suppress(KeyError, ValueError):
        return grp.getgrnam(text).gr_gid
    return None


def group_name(gid: int) -> str:
    """The name of a group, or its number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def groups_of(account: Account) -> frozenset[int]:
    """The ids of all groups that programs of this user have after a login."""
    return frozenset(os.getgrouplist(account.name, account.gid)) | {account.gid}


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    return int(text) if int(text) <= _HIGHEST else None

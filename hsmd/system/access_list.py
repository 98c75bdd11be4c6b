"""POSIX access control lists (acl(5)): permissions of a file for users that are neither its owner nor in its group."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

_NAME = "system.posix_acl_access"
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFF_FFFF
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS)


def allow(path: str, mode: int, users: Iterable[int], permissions: int) -> bool:
    """Give a file `mode`, and `users` these permissions (as the last octal digit of a mode), in one step.

    Without users, an earlier list is removed. Returns False, with only `mode` set, if the file system has no such lists.
    Raises OSError.
    """
    named = sorted(set(users))
    os.chmod(path, mode)
    try:
        if named:
            os.setxattr(path, _NAME, _encode(mode, named, permissions))
        else:
            _remove(path)
            os.chmod(path, mode)  # with a list, the bits of the group were its mask
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return not named
        raise
    return True


def _encode(mode: int, users: Iterable[int], permissions: int) -> bytes:
    """The extended attribute (linux/posix_acl_xattr.h): a version, then entries of tag, permissions and id."""
    owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = [
        (_USER_OBJ, owner, _NO_ID),
        *((_USER, permissions, user) for user in users),
        (_GROUP_OBJ, group, _NO_ID),
        (_MASK, group | permissions, _NO_ID),
        (_OTHER, other, _NO_ID),
    ]
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _remove(path: str) -> None:
    try:
        os.removexattr(path, _NAME)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise

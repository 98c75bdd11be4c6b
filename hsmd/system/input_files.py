"""Files that a user names: read whole, bounded, and never waiting for a named pipe; what is wrong with one, in words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "it is a directory"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a named pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a file"),
)
_OWN_DESCRIPTORS = ("/dev/fd", "/proc/self/fd", "/dev/stdin")
"""Where a shell passes what another command writes, as in `<(command)`; these are read to their end."""


def open_file(path: Path) -> int:
    """A descriptor for reading a regular file. Raises OSError, which says what else it is."""
    passed = str(path) == _OWN_DESCRIPTORS[-1] or str(path.parent) in _OWN_DESCRIPTORS
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if passed else os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:  # what opening a socket or a device without a driver gives
            raise OSError(errno.EINVAL, "it is not a file", str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    for is_kind, number, what in _KINDS:
        if is_kind(mode) and not (passed and not stat.S_ISDIR(mode)):
            os.close(descriptor)
            raise OSError(number, what, str(path))
    return descriptor


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises OSError, also if it has more than `limit` bytes."""
    with open(open_file(path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def text_fault(content: bytes) -> str:
    """Why this is not plain UTF-8 text; empty if it is."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return f"it begins with a byte order mark ({encoding}); save it as UTF-8 without one"
    if b"\0" in content:
        return "it contains a NUL byte and is not a text file"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    return ""

"""Files written all or nothing: a reader or a power failure sees the old file or the new one, never a part."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
_CANNOT_SYNC = (errno.EACCES, errno.EINVAL)
"""A directory without read permission, or on a file system that does not sync directories, as some network file systems."""


def replace(
    path: Path,
    content: str | bytes | Iterable[bytes],
    mode: int = PRIVATE,
    *,
    owner: tuple[int, int] | None = None,
    sync_name: bool = True,
) -> None:
    """Replace the file at `path`, if any, and sync it to disk. Raises OSError. A long `content` may come in pieces.

    `owner` are the ids of user and group, without it those of this process. Without `sync_name` the caller syncs the directory.
    """
    with _staged(path, content, mode, owner) as staged:
        staged.replace(path)
    if sync_name:
        _sync_if_possible(path.parent)


def create(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """Create `path` and sync it to disk. Raises FileExistsError if the name is taken, or OSError."""
    with _staged(path, content, mode) as staged:
        os.link(staged, path)  # unlike a rename, a link refuses to replace
    try:
        _sync_if_possible(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Write the names in a directory to disk, so that they survive a power failure. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_if_possible(path: Path) -> None:
    try:
        sync_directory(path)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


@contextmanager
def _staged(
    path: Path, content: str | bytes | Iterable[bytes], mode: int, owner: tuple[int, int] | None = None
) -> Iterator[Path]:
    """A complete, synced file beside `path`, removed when the block ends; readable by its owner only until complete."""
    staged = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(
            staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # the caller knows no staged file
    try:
        with open(descriptor, "wb") as file:
            if isinstance(content, str):
                content = content.encode()
            file.writelines([content] if isinstance(content, bytes) else content)
            os.fchmod(file.fileno(), mode)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            file.flush()
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)

"""Files that set-up commands write: all or nothing, never over something that is there, closed to others from the first byte."""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.failures import Stop

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700
SHARED_DIRECTORY = 0o755
"""For directories that also hold public files, which other users of the host read."""


def write_new(path: Path, content: str | bytes, mode: int) -> None:
    """Creates `path` with all of `content` or not at all. Raises Stop if it exists."""
    with _staged(path, content, mode) as staged:
        try:
            os.link(staged, path)  # unlike a rename, a link refuses to replace
        except FileExistsError:
            raise exists(path) from None


def replace(path: Path, content: str | bytes, mode: int) -> None:
    """Puts `content` in the place of what `path` held; a reader sees the old or the new, never half."""
    with _staged(path, content, mode) as staged:
        os.replace(staged, path)


def sync_directory(path: Path) -> None:
    """Has the names in a directory survive a power failure from now on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _staged(path: Path, content: str | bytes, mode: int) -> Iterator[Path]:
    """A finished, synced file beside `path`, gone when the block ends."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def exists(path: Path) -> Stop:
    """The refusal to overwrite."""
    return Stop(
        f"{path} exists already and is not overwritten", "move it away first, or choose another place"
    )


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Makes `path`, and its parents with ordinary modes; leaves what is there as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Person:
    """Who typed the command, also behind sudo: their files belong to them, not to root."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def configuration(self) -> Path:
        """Their directory for hsmd; $XDG_CONFIG_HOME counts for one's own session only."""
        own = os.environ.get("XDG_CONFIG_HOME") if self.uid == os.geteuid() else None
        return (Path(own) if own else self.home / ".config") / "hsmd"

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Touches files with this person's rights only, so that no link in their home leads root anywhere."""
        if os.geteuid() != 0 or self.uid == 0:
            yield
            return
        group = os.getegid()
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(group)


def person() -> Person:
    """The person at the keyboard: the user who called sudo if there is one, else the process's own user."""
    behind = os.environ.get("SUDO_UID", "")
    uid = int(behind) if os.geteuid() == 0 and behind.isdecimal() else os.geteuid()
    entry = pwd.getpwuid(uid)
    home = os.environ.get("HOME") if uid == os.geteuid() and not behind else None
    return Person(entry.pw_name, uid, entry.pw_gid, Path(home or entry.pw_dir))

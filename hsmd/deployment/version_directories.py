"""A directory for each version of a set of files that belong together, and a link `current` to one of them.

HOME/VERSION/...     complete and synced before `current` leads there
HOME/current         switched by one rename: whoever opens files through it gets all of one version
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hsmd.system import atomic_file, input_files

CURRENT = "current"
VERSION = re.compile(r"[0-9a-f]{32}")
_LEFT = re.compile(r"\.(?:[0-9a-f]{16}\.new|[0-9a-f]{32}\.old)")
"""What a crash leaves beside the versions. Whatever else is in the directory is not ours."""
KEPT = 3
"""Versions that are kept, the current one among them."""


@dataclass(frozen=True, slots=True)
class Access:
    """Modes of files and directories, and the ids of user and group that they belong to, without them those of the process."""

    file: int = 0o600
    directory: int = 0o700
    owner: tuple[int, int] | None = None


PRIVATE = Access()


def current(home: Path) -> str:
    """The version that `current` leads to; empty if there is none."""
    try:
        found = os.readlink(home / CURRENT)
    except OSError:
        return ""
    return found if VERSION.fullmatch(found) else ""


def is_current(home: Path, version: str, files: Mapping[str, bytes]) -> bool:
    """Whether `current` leads to this version, and its files are complete."""
    try:
        return current(home) == version and _is_complete(home / version, files)
    except OSError:
        return False


def store(directory: Path, files: Mapping[str, bytes], access: Access = PRIVATE) -> None:
    """Write and sync the files. What a crash left incomplete, or the disk has damaged, is completed. Raises OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, content in files.items():
        atomic_file.replace(directory / name, content, access.file, owner=access.owner)
    give(directory, access)


def give(directory: Path, access: Access) -> None:
    """Let the readers of the files enter a directory. Raises OSError."""
    directory.chmod(access.directory)
    if access.owner is not None and access.owner != (os.geteuid(), os.getegid()):
        os.chown(directory, *access.owner)


def try_store(home: Path, size: int, access: Access = PRIVATE) -> None:
    """Raise OSError unless files of so many bytes in all could be stored now."""
    trial = home / f".{secrets.token_hex(8)}.new"
    try:
        store(trial, {"trial": bytes(size)}, access)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def switch(home: Path, version: str) -> None:
    """Let `current` lead to a version that is complete on the disk. Raises OSError."""
    staged = home / f".{secrets.token_hex(8)}.new"
    os.symlink(version, staged)
    os.replace(staged, home / CURRENT)
    atomic_file.sync_directory(home)


def prune(home: Path, kept: str) -> None:
    """Remove all but `kept` and the newest other versions, and what crashes have left. Raises OSError."""
    versions = []
    with os.scandir(home) as entries:
        for entry in entries:
            if VERSION.fullmatch(entry.name):
                versions.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
            elif _LEFT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif _LEFT.fullmatch(entry.name):
                os.unlink(entry.path)
    old = [name for _, name in sorted(versions, reverse=True) if name != kept]
    for name in old[KEPT - 1 :]:
        # Half of a version would look like the newest one.
        leaving = home / f".{name}.old"
        os.rename(home / name, leaving)
        shutil.rmtree(leaving)


def _is_complete(directory: Path, files: Mapping[str, bytes]) -> bool:
    return all(
        input_files.read_file(directory / name, len(content)) == content for name, content in files.items()
    )

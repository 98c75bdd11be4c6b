"""New files and directories of set-up commands: complete or absent, never overwriting, with their mode from the first byte."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from hsmd.cli.base.errors import CommandError
from hsmd.system import atomic_file, directories

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700
SHARED_DIRECTORY = directories.SHARED
"""For directories that also contain public files, which other users of the host read."""


def write_new(path: Path, content: str | bytes, mode: int) -> None:
    """Create `path` with all of `content` or not at all. Raises CommandError if it exists."""
    try:
        atomic_file.create(path, content, mode)
    except FileExistsError:
        raise exists(path) from None


def check_directory(path: Path) -> None:
    """Raises CommandError unless the directory that `path` is to be in exists."""
    if not path.parent.is_dir():
        raise CommandError(
            f"{path}: there is no directory {path.parent}", "make it, mount it, or choose another path"
        )


def exists(path: Path) -> CommandError:
    """The error for a path that would be overwritten."""
    return CommandError(f"{path} exists and is not overwritten", "move it away first, or choose another path")


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Create `path` with `mode`; leave an existing directory unchanged.

    Missing parents of a shared directory are shared too, those of a private one have the default mode.
    """
    if mode == SHARED_DIRECTORY:
        directories.make_shared(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    directories.make(path, mode)


def make_directory_for_now(undo: ExitStack, path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """As `make_directory`; `undo` removes the directories that it made, if they are empty then."""
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        undo.callback(_remove_empty, missing)
    make_directory(path, mode)


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()

"""Files that set-up commands write: all or nothing, never over something that is there, closed to others from the first byte."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.base.errors import CommandError
from hsmd.system import atomic_file

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700
SHARED_DIRECTORY = 0o755
"""For directories that also hold public files, which other users of the host read."""


def write_new(path: Path, content: str | bytes, mode: int) -> None:
    """Create `path` with all of `content` or not at all. Raises CommandError if it exists."""
    try:
        atomic_file.create(path, content, mode)
    except FileExistsError:
        raise exists(path) from None


def exists(path: Path) -> CommandError:
    """The refusal to overwrite."""
    return CommandError(
        f"{path} exists already and is not overwritten", "move it away first, or choose another place"
    )


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Makes `path`, and its parents with ordinary modes; leaves what is there as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)

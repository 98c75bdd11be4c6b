"""New directories with the mode that they need, whatever the umask of the user who runs the command."""

from __future__ import annotations

from pathlib import Path

SHARED = 0o755


def make(path: Path, mode: int) -> None:
    """Create `path` with exactly `mode`; an existing directory keeps its mode. Raises OSError."""
    try:
        path.mkdir(mode=mode & 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    path.chmod(mode)


def make_shared(path: Path) -> None:
    """Create `path` and its missing parents, so that other users can enter and list them. Raises OSError."""
    missing = [path, *path.parents]
    for step in reversed(missing):
        if not step.exists():
            make(step, SHARED)
    if not path.is_dir():
        make(path, SHARED)  # raises

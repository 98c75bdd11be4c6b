"""Files that must survive a power failure whole: replaced in one step, content and name on disk before it counts."""

from __future__ import annotations

import os
from pathlib import Path

_PRIVATE = 0o600


def replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of what is at `path`, readable by its owner only. Raises OSError."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

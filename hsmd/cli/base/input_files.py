"""Files that arguments and options of commands name, read whole; errors name the file and what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.system.input_files import read_file, text_fault

STANDARD_INPUT = Path("-")


def content(path: Path, limit: int, next_step: str = "name a readable file") -> bytes:
    """The bytes of a file. Raises CommandError, also if it has more than `limit` bytes."""
    try:
        return read_file(path, limit)
    except OSError as problem:
        raise CommandError(f"{path} cannot be read: {problem.strerror}", next_step, Exit.USAGE) from None


def content_or_input(path: Path, limit: int, next_step: str = "name a readable file") -> bytes:
    """As `content`; `-` is standard input."""
    if path != STANDARD_INPUT:
        return content(path, limit, next_step)
    found = sys.stdin.buffer.read(limit + 1)
    if len(found) > limit:
        raise CommandError(f"standard input has more than {limit} bytes", next_step, Exit.USAGE)
    return found


def text(path: Path, limit: int, next_step: str = "name a readable file") -> str:
    """The text of a UTF-8 file; `-` is standard input. Raises CommandError, also for a byte order mark."""
    found = content_or_input(path, limit, next_step)
    if fault := text_fault(found):
        raise CommandError(f"{path} cannot be used: {fault}", next_step, Exit.USAGE)
    return found.decode("utf-8")

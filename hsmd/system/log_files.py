"""Audit logs on disk as lines: one file, or a directory with sealed segments, also while a daemon writes them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from hsmd.transparency.records import MAX_LINE_BYTES

LIVE_NAME = "audit.jsonl"
SEGMENTS = "segments"
_UNFINISHED_S = 1.0
"""How long a daemon may take to finish the line it is writing."""
_PAUSE_S = 0.01
_INDEX = re.compile(rb'\{"index":([0-9]{1,16}),')
_SEGMENT = re.compile(r"([0-9]{12})\.jsonl\Z")


def log_lines(path: Path, first: int = 0, *, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """The lines of a log, each with its line feed, from the record `first` on.

    The last one has none if it was never finished; a line longer than a record can be comes in pieces. Raises OSError.
    """
    with contextlib.ExitStack() as opened:
        skipping = first > 0
        for file in _files(path, first, opened):
            for line in _lines(file, clock):
                if skipping and (match := _INDEX.match(line)) and int(match[1]) < first:
                    continue
                skipping = False
                yield line


def _files(path: Path, first: int, opened: contextlib.ExitStack) -> list[BinaryIO]:
    """Open the live file before looking for segments: what is sealed meanwhile is then read as the live file it was."""
    if not path.is_dir():
        return [opened.enter_context(path.open("rb"))]
    live = opened.enter_context((path / LIVE_NAME).open("rb"))
    status = os.fstat(live.fileno())
    segments = sorted(entry for entry in (path / SEGMENTS).glob("*.jsonl") if _SEGMENT.match(entry.name))
    starts = [int(segment.stem) for segment in segments]
    needed = [
        segment
        for segment, end in zip(segments, [*starts[1:], None], strict=False)
        if end is None or end > first
    ]
    files = [opened.enter_context(segment.open("rb")) for segment in needed]
    return [*(file for file in files if not os.path.samestat(os.fstat(file.fileno()), status)), live]


def _lines(file: BinaryIO, clock: Callable[[], float]) -> Iterator[bytes]:
    end = os.fstat(file.fileno()).st_size  # what is written from now on is not for this reading
    while file.tell() < end and (line := file.readline(2 * MAX_LINE_BYTES)):
        yield line if line.endswith(b"\n") else _finished(file, line, clock)


def _finished(file: BinaryIO, line: bytes, clock: Callable[[], float]) -> bytes:
    ends = clock() + _UNFINISHED_S
    while len(line) < 2 * MAX_LINE_BYTES and not line.endswith(b"\n") and clock() < ends:
        more = file.readline(2 * MAX_LINE_BYTES - len(line))
        line += more
        if not more:
            time.sleep(_PAUSE_S)
    return line

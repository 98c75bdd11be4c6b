"""The log as one run of bytes, sealed segments first, then the live file; and the directory of the segments."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hsmd.errors import AuditFailure

SEGMENTS = "segments"
_NAME = re.compile(r"(\d{12,19})\.jsonl\Z")
_FIRST = re.compile(rb'\{"index":(\d{1,19}),')


class Segment(NamedTuple):
    """A sealed segment: the index of its first record, and its bytes."""

    first: int
    size_bytes: int


def segment_name(first: int) -> str:
    """The name of the segment that begins with record `first`: names sort as indices do."""
    return f"{first:012}.jsonl"


class SegmentDirectory:
    """`segments/` in the log's directory; everything goes through descriptors, so a renamed parent does no harm."""

    def __init__(self, log_directory_fd: int, path: Path) -> None:
        """Makes the directory (0700) if need be. Raises OSError."""
        with suppress(FileExistsError):
            os.mkdir(SEGMENTS, 0o700, dir_fd=log_directory_fd)
        self.path = path
        self.fd = os.open(
            SEGMENTS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=log_directory_fd
        )

    def list(self) -> list[Segment]:
        """The segments that are here, oldest first."""
        found = []
        for name in os.listdir(self.fd):
            if match := _NAME.match(name):
                with suppress(FileNotFoundError):  # archived just now
                    found.append(Segment(int(match[1]), os.stat(name, dir_fd=self.fd).st_size))
        return sorted(found)

    def open(self, segment: Segment) -> int:
        """A descriptor to read a segment with; the caller closes it. Raises OSError."""
        return os.open(
            segment_name(segment.first), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd
        )

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class LogView:
    """What is in the log at one moment: `size` bytes from record `first` on, of which `base` are in sealed segments.

    Has its own descriptors, so it may be read in any thread while the log goes on; close it. Raises OSError as the
    system does.
    """

    def __init__(
        self,
        path: Path,
        directory: SegmentDirectory,
        sealed: Sequence[Segment],
        live_fd: int,
        live_bytes: int,
    ) -> None:
        """`live_fd` is duplicated, `path` is for messages."""
        self.path = path
        self.directory = directory
        self._sealed = sealed
        self._live_fd = os.dup(live_fd)
        self.base = sum(segment.size_bytes for segment in sealed)
        self.size = self.base + live_bytes

    def __enter__(self) -> LogView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._live_fd)

    @property
    def first(self) -> int:
        """Index of the first record that is here; older ones have been archived."""
        return self._sealed[0].first if self._sealed else self.first_live

    @property
    def first_live(self) -> int:
        """Index of the live file's first record, 0 if it has none."""
        match = _FIRST.match(os.pread(self._live_fd, 32, 0))
        return int(match[1]) if match else 0

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; fewer than `length` only at the end."""
        parts = []
        start = 0
        for segment in self._sealed:
            end = start + segment.size_bytes
            if offset < end and length > 0:
                parts.append(self._read_sealed(segment, offset - start, min(length, end - offset)))
                length -= len(parts[-1])
                offset += len(parts[-1])
            start = end
        if length > 0 and offset < self.size:
            parts.append(os.pread(self._live_fd, min(length, self.size - offset), offset - self.base))
        return b"".join(parts)

    def _read_sealed(self, segment: Segment, offset: int, length: int) -> bytes:
        fd = self.directory.open(segment)
        try:
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
        if len(data) != length:
            name = segment_name(segment.first)
            raise AuditFailure(
                detail=f"{self.directory.path / SEGMENTS / name} is shorter than it was; was it changed?"
            )
        return data

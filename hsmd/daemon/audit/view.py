"""The log as one sequence of bytes: sealed segments first, then the live file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hsmd.errors import AuditFailure
from hsmd.system.log_files import Segment, SegmentDirectory, index_of


class LogView:
    """The log at one moment: `size` bytes from record `first` on, of which `base` are in sealed segments.

    It has its own descriptors, so it may be read in any thread while the log grows; the caller closes it. Raises OSError.
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
        self.sealed = sealed
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
        """Index of the first record that is present; older ones were archived."""
        return self.sealed[0].first if self.sealed else self.first_live

    @property
    def first_live(self) -> int:
        """Index of the live file's first record, 0 if it has none."""
        return index_of(os.pread(self._live_fd, 32, 0)) or 0

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; fewer than `length` only at the end."""
        parts = []
        start = 0
        for segment in self.sealed:
            end = start + segment.size_bytes
            if offset < end and length > 0:
                parts.append(self._read_sealed(segment, offset - start, min(length, end - offset)))
                length -= len(parts[-1])
                offset += len(parts[-1])
            start = end
        if length > 0 and offset < self.size:
            parts.append(self.read_live(offset - self.base, length))
        return b"".join(parts)

    def read_live(self, offset: int, length: int) -> bytes:
        """As `read`, with an offset within the live file."""
        return os.pread(self._live_fd, min(length, self.size - self.base - offset), offset)

    def _read_sealed(self, segment: Segment, offset: int, length: int) -> bytes:
        fd = self.directory.open(segment)
        try:
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
        if len(data) != length:
            raise AuditFailure(
                detail=f"{self.directory.path / segment.name} is shorter than it was; was it changed?"
            )
        return data

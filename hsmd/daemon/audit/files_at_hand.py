"""The files with records that are at hand: copies of archived segments, sealed segments and the live file."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hsmd.daemon.audit.archive_list import Archived, archived, archived_to
from hsmd.daemon.audit.paging import find
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import SEGMENTS, Read, index_of, lines_from, reader, segment_name

MAX_OPEN = 8
"""Most sealed and archived segments that one reader has open at a time."""


class _File(NamedTuple):
    path: Path
    fd: int
    """-1 for the live file, which the view has open."""
    read: Read
    size_bytes: int


class FilesAtHand:
    """Reads records by their indices, wherever they are; in any thread, in one at a time.

    A segment that is archived and removed meanwhile is read from its copy. An archive that this process cannot open is not at
    hand. Methods raise OSError, or AuditFailure for a file that was changed.
    """

    def __init__(self, view: LogView) -> None:
        """The caller closes `view` afterwards."""
        self._view = view
        self._segments = view.path.parent / SEGMENTS
        self._sealed = {segment.first: segment for segment in view.sealed}
        self._copies = self._listed()
        self._firsts = sorted(self._sealed.keys() | self._copies.keys() | self._live())
        self._open: dict[int, _File] = {}

    def __enter__(self) -> FilesAtHand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            _close(file)

    def lines(self, index: int) -> Iterator[tuple[int, bytes]]:
        """Records from `index` on, each with its index; those that are not at hand are left out."""
        for first in self._firsts[max(bisect_right(self._firsts, index) - 1, 0) :]:
            index = max(index, first)
            for line in self._lines_of(first, index):
                yield index, line
                index += 1

    def line(self, index: int) -> bytes:
        """One record with its line feed. Raises NotFound if it is not at hand."""
        for found, line in self.lines(index):
            if found == index:
                return line
            break
        where = archived_to(self._segments, index)
        raise NotFound(f"record {index} was archived{where}, where the daemon cannot read it")

    def _lines_of(self, first: int, index: int) -> Iterator[bytes]:
        """Records from `index` on of the file that begins with record `first`; none if it is not at hand."""
        file = self._file(first)
        start = None if file is None else find(file.read, index, file.size_bytes, file.path)
        if file is None or start is None:
            return
        for _, line in lines_from(file.read, start, file.size_bytes):
            if not line.endswith(b"\n"):  # of a copy that is shorter than the segment was
                return
            if index_of(line) != index:
                raise AuditFailure(
                    detail=f"{file.path}: record {index} is not where it belongs; run `hsmd audit verify`"
                )
            yield line
            index += 1

    def _file(self, first: int) -> _File | None:
        file = self._open.get(first) or self._opened(first)
        if file is not None:
            self._open[first] = file
            if len(self._open) > MAX_OPEN:
                _close(self._open.pop(next(iter(self._open))))
        return file

    def _opened(self, first: int) -> _File | None:
        if first in self._live():
            view = self._view
            return _File(view.path, -1, view.read_live, view.size - view.base)
        segment = self._sealed.get(first)
        if segment is not None:
            try:
                return _described(self._segments / segment.name, self._view.directory.open(segment))
            except FileNotFoundError:  # archived and removed meanwhile
                self._copies = self._listed()
        for copy in reversed(self._copies.get(first, [])):
            path = Path(copy.to) / segment_name(first)
            try:
                return _described(path, os.open(path, _READ))
            except OSError:
                continue
        return None

    def _live(self) -> set[int]:
        """Index of the first record in the live file, if it has any."""
        return {self._view.first_live} if self._view.size > self._view.base else set()

    def _listed(self) -> dict[int, list[Archived]]:
        copies: dict[int, list[Archived]] = {}
        try:
            for entry in archived(self._segments):
                copies.setdefault(entry.first, []).append(entry)
        except (ValueError, TypeError):
            raise AuditFailure(
                detail=f"the list of archived segments in {self._segments} is damaged; move it away"
            ) from None
        return copies


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""An archive may be writable for others: no links, and no waiting for the writer of a FIFO."""


def _described(path: Path, fd: int) -> _File:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return _File(path, fd, reader(fd), status.st_size)


def _close(file: _File) -> None:
    if file.fd >= 0:
        os.close(file.fd)

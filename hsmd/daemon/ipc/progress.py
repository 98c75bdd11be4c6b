"""The progress page: four counters in shared memory that show a worker's progress, even after it has ended.

A worker numbers the key operations on its socket 1, 2, 3, ... in the order of arrival. It stores `started` right before the
key is used and `finished` right after. The front reads both when a worker is lost: operations after `started` have not begun.
`searches` changes before and after each slice of a search, and is odd in it: a search may take longer than the use of a key.
The front sets `fence`: from then on the worker uses no key, so that operations declared "not performed" are not performed
even if a stopped worker continues before it is killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_STARTED, _FINISHED, _FENCE, _SEARCHES = range(4)
_PAGE_BYTES = 32
_PAGE_BYTES_BEFORE = 24
"""A launcher of an earlier release, still running while the software is upgraded, makes pages without `searches`."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""The page keeps its size (memfd_create(2)): the front would be killed by SIGBUS if it read a page that a worker cut off."""


class ProgressPage:
    """One page, mapped by the worker, which stores its progress, and by the front, which reads it and sets the fence."""

    __slots__ = ("_map", "counters")

    STARTED, FINISHED, FENCE = _STARTED, _FINISHED, _FENCE

    def __init__(self, fd: int) -> None:
        """Map the page of `fd`, which the caller keeps and closes. Raises OSError, or ValueError if it is too short."""
        size = _PAGE_BYTES if os.fstat(fd).st_size >= _PAGE_BYTES else _PAGE_BYTES_BEFORE
        self._map = mmap.mmap(fd, size)
        self.counters = memoryview(self._map).cast("Q")
        """For the worker's loop: `counters[ProgressPage.STARTED] = n` is one aligned 8-byte store."""

    @staticmethod
    def create() -> int:
        """A file descriptor of a new page of zeros whose size is fixed, closed on exec."""
        fd = os.memfd_create("hsmd-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _PAGE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd

    @property
    def started(self) -> int:
        """Number of the last key operation that began."""
        return self.counters[_STARTED]

    @property
    def finished(self) -> int:
        """Number of the last key operation that ended."""
        return self.counters[_FINISHED]

    @property
    def searches(self) -> int:
        """Twice the number of slices of searches that have ended, and one more while one goes on."""
        return self.counters[_SEARCHES] if len(self.counters) > _SEARCHES else 0

    @contextmanager
    def slice_of_search(self) -> Iterator[None]:
        """For the worker: the block is a slice of a search."""
        counts = len(self.counters) > _SEARCHES
        if counts:
            self.counters[_SEARCHES] += 1
        try:
            yield
        finally:
            if counts:
                self.counters[_SEARCHES] += 1

    def fence(self) -> None:
        """Keep the worker from beginning further operations."""
        self.counters[_FENCE] = 1

    def close(self) -> None:
        """Unmap the page."""
        self.counters.release()
        self._map.close()

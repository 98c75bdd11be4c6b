"""The progress page: three counters in shared memory that show a worker's progress, even after it has ended.

A worker numbers the key operations on its socket 1, 2, 3, ... in the order of arrival. It stores `started` right before the
key is used and `finished` right after. The front reads both when a worker is lost: operations after `started` have not begun.
The front sets `fence`: from then on the worker uses no key, so that operations declared "not performed" are not performed
even if a stopped worker continues before it is killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_STARTED, _FINISHED, _FENCE = range(3)
_PAGE_BYTES = 24
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""The page keeps its size (memfd_create(2)): the front would be killed by SIGBUS if it read a page that a worker cut off."""


class ProgressPage:
    """One page, mapped by the worker, which stores its progress, and by the front, which reads it and sets the fence."""

    __slots__ = ("_map", "counters")

    STARTED, FINISHED, FENCE = _STARTED, _FINISHED, _FENCE

    def __init__(self, fd: int) -> None:
        """Map the page of `fd`, which the caller keeps and closes. Raises OSError, or ValueError if it is too short."""
        self._map = mmap.mmap(fd, _PAGE_BYTES)
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

    def fence(self) -> None:
        """Keep the worker from beginning further operations."""
        self.counters[_FENCE] = 1

    def close(self) -> None:
        """Unmap the page."""
        self.counters.release()
        self._map.close()

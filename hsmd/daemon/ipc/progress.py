"""The progress page: three counters in shared memory that say where a worker is, even after it died.

A worker numbers the key operations on its socket 1, 2, 3, ... in the order of arrival. `started` is stored right before
the key is used, `finished` right after. The front reads both when a worker is lost: beyond `started` nothing began. `fence`
is the front's: once it is set the worker uses no key any more, so that what was declared "not performed" stays so even if
a stopped worker wakes up before it is killed.
"""

from __future__ import annotations

import mmap
import os

_STARTED, _FINISHED, _FENCE = range(3)
_PAGE_BYTES = 24


class ProgressPage:
    """One page, mapped by the worker (which stores) and by the front (which reads and fences)."""

    __slots__ = ("_map", "counters")

    STARTED, FINISHED, FENCE = _STARTED, _FINISHED, _FENCE

    def __init__(self, fd: int) -> None:
        """Map the page behind `fd`, which stays the caller's. Raises OSError, or ValueError if it is too short."""
        self._map = mmap.mmap(fd, _PAGE_BYTES)
        self.counters = memoryview(self._map).cast("Q")
        """For the worker's loop: `counters[ProgressPage.STARTED] = n` is one aligned 8-byte store."""

    @staticmethod
    def create() -> int:
        """A file descriptor of a new page, all zero, closed on exec."""
        fd = os.memfd_create("hsmd-progress", os.MFD_CLOEXEC)
        os.ftruncate(fd, _PAGE_BYTES)
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
        """The worker shall begin nothing more."""
        self.counters[_FENCE] = 1

    def close(self) -> None:
        """Unmap the page."""
        self.counters.release()
        self._map.close()

"""Gives memory back to the system that the C library holds but does not use.

A flood is read into buffers, which are freed when they have been paid for. Between them lies what is still in use, and the
C library gives back only what is free at the end of its heap: a process stays as large as it was at its worst moment.
"""

from __future__ import annotations

import ctypes

KEPT_BYTES = 4 << 20
"""So much may be free without being given back: it is used again soon."""

_libc = ctypes.CDLL(None)


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


class FreeMemory:
    """What is free in the C library's heap. Does nothing without glibc 2.33 or newer."""

    def __init__(self) -> None:
        self._known = hasattr(_libc, "mallinfo2") and hasattr(_libc, "malloc_trim")
        if self._known:
            _libc.mallinfo2.restype = _MallInfo
        self._least = self._bytes()

    def check(self) -> None:
        """Give back what is free if it is KEPT_BYTES more than at the least since it was given back; takes milliseconds then."""
        free = self._bytes()
        self._least = min(self._least, free)
        if free - self._least > KEPT_BYTES:
            _libc.malloc_trim(0)
            self._least = self._bytes()  # what was given back counts as free until it is used again

    def _bytes(self) -> int:
        return int(_libc.mallinfo2().fordblks) if self._known else 0

"""A reader for the presentation language of TLS (RFC 5246, section 4): integers and vectors with a length."""

from __future__ import annotations

from hsmd.errors import PurposeMismatch


class VectorReader:
    """Reads one TLS structure from beginning to end. Raises PurposeMismatch where it is malformed.

    `what` names the structure in error texts, for example "a TLS 1.2 client transcript".
    """

    __slots__ = ("_at", "_data", "_end", "_what")

    def __init__(self, data: bytes, what: str, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end
        self._what = what

    def mismatch(self, why: str) -> PurposeMismatch:
        """The error for a fault in this structure."""
        return PurposeMismatch(f"not {self._what}: {why}")

    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self._at == self._end

    def left(self) -> int:
        """Number of unread bytes."""
        return self._end - self._at

    def next_byte(self) -> int | None:
        """The next byte without reading it, or None at the end."""
        return self._data[self._at] if self._at < self._end else None

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        begin = self._advance(size)
        return self._data[begin : self._at]

    def uint(self, size: int) -> int:
        """An unsigned big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size))

    def vector(
        self, prefix_bytes: int, *, least: int = 0, most: int | None = None, multiple_of: int = 1
    ) -> VectorReader:
        """A reader for the content of a vector whose length is in the `prefix_bytes` bytes before it."""
        length = self.uint(prefix_bytes)
        if length < least or (most is not None and length > most) or length % multiple_of:
            raise self.mismatch(f"a vector of {length} bytes where that cannot be")
        begin = self._advance(length)
        return VectorReader(self._data, self._what, begin, self._at)

    def count_vectors(self, prefix_bytes: int, *, most: int, what: str) -> int:
        """Read all that is left as vectors that are not empty; returns how many. `what` names them in the plural.

        No more than `most` are read, so that long input costs no more than honest input does.
        """
        data, at, end = self._data, self._at, self._end
        count = 0
        while at < end:
            content = at + prefix_bytes
            at = content + int.from_bytes(data[at:content])
            if at > end or content > end:
                raise self.mismatch("it ends early")
            if at == content:
                raise self.mismatch("a vector of 0 bytes where that cannot be")
            count += 1
            if count > most:
                raise self.mismatch(f"more than {most} {what}")
        self._at = end
        return count

    def rest(self) -> bytes:
        """All unread bytes."""
        return self.take(self._end - self._at)

    def finish(self) -> None:
        """Raise PurposeMismatch unless everything has been read."""
        if self._at != self._end:
            raise self.mismatch("bytes where none may follow")

    def _advance(self, size: int) -> int:
        """Skip `size` bytes; returns where they begin."""
        begin = self._at
        if size > self._end - begin:
            raise self.mismatch("it ends early")
        self._at = begin + size
        return begin

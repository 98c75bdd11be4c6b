"""The hashes of a Merkle tree in files, appended in batches, so that any proof needs only a few short reads.

File `L` of the directory holds the hashes of the complete subtrees of 2**L leaves, in order, for every eighth level L.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hsmd.transparency.merkle import HASH_BYTES, Frontier, consistency_proof, inclusion_proof, root_at

STEP = 8
"""Levels between two files: a hash that is not stored is computed from at most 2**STEP - 1 that are."""
BATCH = 256
"""Leaves appended at a time."""
_LEVELS = range(0, 48, STEP)


class TreeFiles:
    """The hashes of one log's tree. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Create the directory if necessary. Raises OSError."""
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        self._files: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        for level in _LEVELS:
            self._open(level)
        self._trim()
        self._frontier = self._frontier_at(self.size)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._counts[0]

    def append(self, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes. Raises OSError; then `reset` and append again from the records."""
        for at in range(0, len(leaves), BATCH):
            part = leaves[at : at + BATCH]
            self._write(0, part)
            self._frontier.append(part)
            self._raise_levels()

    def reset(self, size: int) -> None:
        """Remove all leaves from `size` on. Raises OSError."""
        for level in _LEVELS:
            self._cut(level, min(self._counts[level], size >> level))
        self._frontier = self._frontier_at(self.size)

    def root(self) -> bytes:
        """The root of the whole tree."""
        return self._frontier.root()

    def root_at(self, size: int) -> bytes:
        """The root that the tree had with `size` leaves."""
        return root_at(size, self.node)

    def leaf(self, index: int) -> bytes:
        """The leaf hash of a record."""
        return self._read(0, index, 1)[0]

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that record `index` is in the tree of `size` leaves (RFC 9162, section 2.1.3.1)."""
        return inclusion_proof(index, size, self.node)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the tree of `second` leaves continues that of `first` (RFC 9162, section 2.1.4.1)."""
        return consistency_proof(first, second, self.node)

    def node(self, level: int, position: int) -> bytes:
        """The hash of the complete subtree of 2**level leaves that begins at leaf position * 2**level."""
        stored = level - level % STEP
        count = 1 << (level - stored)
        tree = Frontier()
        tree.append(self._read(stored, position * count, count))
        return tree.root()

    def sync(self) -> None:
        """Return when all of it is on disk. Raises OSError."""
        for descriptor in self._files.values():
            os.fdatasync(descriptor)

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    # --- files ---

    def _open(self, level: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._files[level] = os.open(self._directory / str(level), flags, 0o600)
        self._counts[level] = os.fstat(self._files[level]).st_size // HASH_BYTES

    def _trim(self) -> None:
        """Remove what a crash left partly written, and make the higher levels fit the leaves."""
        for level in _LEVELS:
            self._cut(level, min(self._counts[level], self._counts[0] >> level))
        self._raise_levels()

    def _cut(self, level: int, count: int) -> None:
        os.ftruncate(self._files[level], count * HASH_BYTES)
        self._counts[level] = count

    def _write(self, level: int, hashes: Sequence[bytes]) -> None:
        data = b"".join(hashes)
        at = self._counts[level] * HASH_BYTES
        while data:
            written = os.pwrite(self._files[level], data, at)
            at, data = at + written, data[written:]
        self._counts[level] += len(hashes)

    def _raise_levels(self) -> None:
        """Append the hashes of subtrees that the leaves have completed."""
        for below, level in pairwise(_LEVELS):
            while self._counts[level] < self._counts[0] >> level:
                position = self._counts[level]
                tree = Frontier()
                tree.append(self._read(below, position << STEP, 1 << STEP))
                self._write(level, [tree.root()])

    def _read(self, level: int, first: int, count: int) -> list[bytes]:
        data = os.pread(self._files[level], count * HASH_BYTES, first * HASH_BYTES)
        if len(data) != count * HASH_BYTES:
            raise OSError(f"{self._directory / str(level)}: hash {first} is missing")
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def _frontier_at(self, size: int) -> Frontier:
        peaks, begin = [], 0
        for level in range(size.bit_length() - 1, -1, -1):
            if size >> level & 1:
                peaks.append(self.node(level, begin >> level))
                begin += 1 << level
        return Frontier(size, peaks)

"""The Merkle tree beside the log: hashes in files, appended in batches, so that any proof needs a few short reads.

File `L` of the directory holds, one behind the other, the hashes of the complete subtrees of 2**L leaves, for every eighth level.
They follow from the records, so they are neither synced nor trusted: at a start they are held against the newest
checkpoint and the records themselves, and made anew where they do not fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from hsmd.daemon.audit.disk import LogFile
from hsmd.daemon.audit.paging import lines_from, offset_of
from hsmd.daemon.audit.recovery import newest_event
from hsmd.daemon.audit.syncing import Mark
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.transparency.chain import leaf_hash
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.merkle import HASH_BYTES, Frontier, consistency_proof, inclusion_proof, root_at
from hsmd.transparency.note import Signature
from hsmd.transparency.verification import CHECKPOINT_EVENT

STEP = 8
"""Levels between two files: a hash that is in none is made of at most 2**STEP - 1 that are."""
_LEVELS = range(0, 48, STEP)
_BATCH = 4096


class TreeFiles:
    """The hashes of one log's tree. Not thread-safe; reading and appending take turns."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if need be. Raises OSError."""
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
        """Add leaf hashes behind the last one. Raises OSError; then `reset` and append again from the records."""
        for at in range(0, len(leaves), _BATCH):
            part = leaves[at : at + _BATCH]
            self._write(0, part)
            self._frontier.append(part)
            self._raise_levels()

    def reset(self, size: int) -> None:
        """Forget all leaves from `size` on. Raises OSError."""
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
        """Drop what a crash left half written, and what a higher level lacks or has too much is made to fit."""
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
        """Complete what the leaves complete on the higher levels."""
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


class LogTree:
    """The tree of a log on disk. Everything here reads files: call it from a thread, one call at a time."""

    def __init__(self, directory: Path, file: LogFile, mark: Callable[[], Mark]) -> None:
        """`mark` tells how far the log goes at the moment. Raises OSError, or AuditFailure for a changed log."""
        self._file = file
        self._mark = mark
        self._files = TreeFiles(directory)
        end, (size, _) = mark()
        if not self._fits(size, end):
            self._files.reset(0)
        self._offset = self._offset_of(self._files.size, size, end)

    @property
    def size(self) -> int:
        """The records that the tree holds."""
        return self._files.size

    def grow(self) -> None:
        """Take in what the log has gained. Raises OSError or AuditFailure."""
        end, _ = self._mark()
        batch: list[bytes] = []
        for offset, line in lines_from(self._file, self._offset, end):
            batch.append(leaf_hash(line))
            if len(batch) == _BATCH:
                self._take(batch, offset + len(line) + 1)
        self._take(batch, end)

    def root(self) -> bytes:
        """The root of the tree as it is."""
        return self._files.root()

    def newest_checkpoint(self) -> tuple[Checkpoint, Signature] | None:
        """The newest checkpoint that is a record of the log, with its signature. Raises AuditFailure if it is malformed."""
        found = newest_event(self._file, self._mark().size_bytes, CHECKPOINT_EVENT)
        if found is None:
            return None
        fields = found[1].fields
        origin = str(fields.get("origin"))
        try:
            checkpoint = Checkpoint(
                origin, int(fields.get("size", -1)), bytes.fromhex(str(fields.get("root")))
            )
            return checkpoint, Signature.decode(origin, str(fields.get("signature")))
        except (ValueError, ProtocolError):
            raise AuditFailure(
                f"the checkpoint in record {found[1].index} is malformed; run `hsmd audit verify`"
            ) from None

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that record `index` is among the first `size` (RFC 9162, section 2.1.3.1)."""
        return self._files.inclusion(index, size)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the first `second` records begin with the first `first` (RFC 9162, section 2.1.4.1)."""
        return self._files.consistency(first, second)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _take(self, batch: list[bytes], offset: int) -> None:
        self._files.append(batch)
        self._offset = offset
        batch.clear()

    def _fits(self, size: int, end: int) -> bool:
        """Whether the files are of this log: their last leaf, and the root that the newest checkpoint was signed for."""
        mine = self._files.size
        if mine > size or (mine and self._files.leaf(mine - 1) != self._leaf_in_log(mine - 1, end)):
            return False
        known = self.newest_checkpoint()
        return known is None or known[0].size > mine or self._files.root_at(known[0].size) == known[0].root

    def _leaf_in_log(self, index: int, end: int) -> bytes:
        _, line = next(iter(lines_from(self._file, offset_of(self._file, index, end), end)))
        return leaf_hash(line)

    def _offset_of(self, index: int, size: int, end: int) -> int:
        return end if index == size else offset_of(self._file, index, end)

"""The Merkle tree of a log, kept in files beside it and compared with the newest checkpoint at a start.

The files can be computed from the records, so they are not trusted: at a start they are cut back to the newest checkpoint
in the log and must have its root; otherwise they are computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hsmd.daemon.audit.paging import offset_of
from hsmd.daemon.audit.recovery import newest_event
from hsmd.daemon.audit.tree_files import BATCH, TreeFiles
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.system.log_files import lines_from
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.lines import NO_HEAD, Head
from hsmd.transparency.note import Signature
from hsmd.transparency.records import CHECKPOINT_EVENT

_PAUSE_S = 0.0005
"""Pause between two batches, which lets the event loop run."""


class LogTree:
    """The tree of a log on disk. Everything here reads files: call it from a thread, one call at a time."""

    def __init__(self, directory: Path, view: Callable[[], LogView], head: Callable[[], Head]) -> None:
        """`head` gives the log's current head, `view` shows at least the records up to it.

        Raises OSError, or AuditFailure for a changed log, or for a tree that was lost after records were archived.
        """
        self._view = view
        self._head = head
        self._files = TreeFiles(directory)
        known = self.newest_checkpoint()
        if not self._fits(known[0] if known else None):
            self._files.reset(0)
            self._require_all()
        elif known is not None:
            self._files.reset(known[0].size)  # later hashes were perhaps not synced, and are quickly computed

    @property
    def size(self) -> int:
        """The records that the tree holds."""
        return self._files.size

    def grow(self, head: Head | None = None) -> None:
        """Append the log's new records up to `head`, and sync the tree. Raises OSError or AuditFailure.

        The leaf hash of a record is the `previous` of the next one, and that of the last one is known. So nothing is hashed
        twice, and a record changed on disk since it was written does not become a leaf.
        """
        head = head or self._head()
        with self._view() as view:
            last = self._files.leaf(self.size - 1).hex() if self.size else NO_HEAD
            for leaves in _leaves(view, self.size, head, last):
                self._files.append(leaves)
                time.sleep(_PAUSE_S)
        self._files.sync()

    def root(self) -> bytes:
        """The root of the current tree."""
        return self._files.root()

    def root_at(self, size: int) -> bytes:
        """The root that the tree had with `size` leaves."""
        return self._files.root_at(size)

    def newest_checkpoint(self) -> tuple[Checkpoint, Signature] | None:
        """The newest checkpoint that is a record of the log, with its signature. Raises AuditFailure if it is malformed."""
        with self._view() as view:
            found = newest_event(view, view.size, CHECKPOINT_EVENT)
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

    def _fits(self, known: Checkpoint | None) -> bool:
        """Whether the files belong to this log: they hold the tree that the newest checkpoint was signed for."""
        mine = self._files.size
        if known is None or mine > self._head().size or known.size > mine:
            return False
        return self._files.root_at(known.size) == known.root

    def _require_all(self) -> None:
        with self._view() as view:
            first = view.first
        if first:
            raise AuditFailure(
                f"the tree of {view.path} is lost, and the records before {first} are archived; put their segments back"
            )


def _leaves(view: LogView, first: int, head: Head, last: str) -> Iterator[list[bytes]]:
    """Leaf hashes of the records from `first` up to `head`, in blocks; `last` is that of the previous record (hex)."""
    if first >= head.size:
        return
    gathered: list[str] = []
    index = first
    for _, line in lines_from(view.read, offset_of(view, first, view.size), view.size):
        start = f'{{"index":{index},"previous":"'.encode()
        if not line.startswith(start):
            raise AuditFailure(
                detail=f"{view.path}: record {index} is not where it belongs; run `hsmd audit verify`"
            )
        previous = line[len(start) : len(start) + len(NO_HEAD)].decode()
        if index > first:
            gathered.append(previous)
        elif previous != last:
            raise AuditFailure(detail=f"{view.path}: record {index} does not follow from the one before it")
        index += 1
        if len(gathered) == BATCH:
            yield _decoded(view, gathered)
            gathered = []
        if index == head.size:
            break
    if index != head.size:
        raise AuditFailure(
            detail=f"{view.path}: records from {index} on are missing; run `hsmd audit verify`"
        )
    yield _decoded(view, [*gathered, head.head])


def _decoded(view: LogView, digests: list[str]) -> list[bytes]:
    try:
        return [bytes.fromhex(digest) for digest in digests]
    except ValueError:
        raise AuditFailure(detail=f"{view.path}: a record has no hash of the one before it") from None

"""Follows the hash chain of audit records, which needs only their lines.

A record's leaf hash is that of RFC 9162, section 2.1.1, so that the same lines are the leaves of a Merkle tree.
"""

from __future__ import annotations

from hsmd.errors import ProtocolError
from hsmd.transparency.lines import START, Head, leaf_hash
from hsmd.transparency.records import Record, parse_record


class Follower:
    """Follows a chain line by line from a known head."""

    __slots__ = ("head", "size")

    def __init__(self, start: Head = START) -> None:
        self.size, self.head = start

    @classmethod
    def entering(cls, line: bytes) -> Follower:
        """A follower that starts with the record `line` and trusts its `previous`. Raises ProtocolError."""
        record = parse_record(line)
        return cls(Head(record.index, record.previous))

    @property
    def position(self) -> Head:
        """The head reached."""
        return Head(self.size, self.head)

    def follow(self, line: bytes) -> Record:
        """Return the next record. Raises ProtocolError, and does not advance, unless `line` continues the chain."""
        record = parse_record(line)
        if record.index != self.size:
            raise ProtocolError(f"record {record.index} stands where record {self.size} belongs")
        if record.previous != self.head:
            raise ProtocolError(f"record {record.index} does not follow from the one before it")
        self.size += 1
        self.head = leaf_hash(line).hex()
        return record

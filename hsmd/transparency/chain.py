"""Following and verifying the hash chain of audit records, which needs nothing but their lines.

A record's leaf hash is that of RFC 9162, section 2.1.1, so that the same lines are the leaves of a Merkle tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hsmd.errors import ProtocolError
from hsmd.transparency.lines import START, Head, leaf_hash
from hsmd.transparency.records import Record, parse_record


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found: `count` records are proven, the last of them has the leaf hash `head`.

    `first_bad` is the index of the first record that is wrong or missing, None if all is well; `reason` says
    what is wrong with it, for a person.
    """

    count: int
    head: str
    first_bad: int | None = None
    reason: str = ""

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.first_bad is None


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
        """The next record. Raises ProtocolError, and stays where it is, unless `line` continues the chain."""
        record = parse_record(line)
        if record.index != self.size:
            raise ProtocolError(f"record {record.index} stands where record {self.size} belongs")
        if record.previous != self.head:
            raise BrokenLink(record)
        self.size += 1
        self.head = leaf_hash(line).hex()
        return record


class BrokenLink(ProtocolError):
    """A sound record that does not confirm the one before it: one of the two was changed."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"record {record.index} does not follow from the one before it")


def verify(lines: Iterable[bytes], expected: Head | None = None) -> Verdict:
    """Verify a whole log, streaming; a line may or may not carry its line feed.

    `expected` is a head seen earlier (printed, or kept by a witness): the log must contain it. Without it
    the chain alone cannot show that records were cut off at the end or that the very last one was changed.
    For untrusted files give lines of bounded length, for example `iter(partial(file.readline, 2 * MAX_LINE_BYTES), b"")`.
    """
    chain = Follower()
    before = chain.position
    remaining = iter(lines)
    for raw in remaining:
        line = raw.removesuffix(b"\n")
        try:
            chain_before, _ = chain.position, chain.follow(line)
        except BrokenLink as broken:
            return _blame(chain.position, before, line, broken, next(remaining, None), expected)
        except ProtocolError as problem:
            return _bad(chain.position, chain.size, problem.text)
        before = chain_before
        if expected and chain.size == expected.size and chain.head != expected.head:
            return _bad(before, before.size, "the record is not the one whose head was seen earlier")
    if expected and chain.size < expected.size:
        return _bad(chain.position, chain.size, f"the log ends here; it once had {expected.size} records")
    return Verdict(chain.size, chain.head)


def _blame(
    at: Head, before: Head, line: bytes, broken: BrokenLink, following: bytes | None, expected: Head | None
) -> Verdict:
    """Which side of a broken link was changed: the later record if nothing confirms it, else the earlier one."""
    if at.size == 0:
        return _bad(at, 0, broken.text)
    if _confirmed(line, at.size, following, expected):
        return _bad(
            before, before.size, f"the record was changed: record {at.size} was written after another one"
        )
    return _bad(at, at.size, broken.text)


def _confirmed(line: bytes, index: int, following: bytes | None, expected: Head | None) -> bool:
    own = leaf_hash(line).hex()
    if expected and expected.size == index + 1:
        return own == expected.head
    if following is None:
        return True  # nothing speaks against the last record, so the one before it is the first not proven
    try:
        return parse_record(following.removesuffix(b"\n")).previous == own
    except ProtocolError:
        return True


def _bad(proven: Head, index: int, reason: str) -> Verdict:
    return Verdict(proven.size, proven.head, index, f"record {index}: {reason}")

"""Which records a client may read: operators and auditors all; others those about themselves and about certain keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.paging import MAX_PAGE_BYTES, json_bytes, text_of
from hsmd.errors import AuditFailure, NotFound
from hsmd.protocol.audit_fields import KEY_DIGEST, subject_of
from hsmd.transparency.records import GRANT_USED_EVENT, VAULT_EVENTS, Record

MAX_SCANNED = 5_000
"""Most records that are scanned for one answer."""
MAX_LOOKED_UP = 200
"""Most attempts that are looked up for one answer, because what follows from them is far behind them in the log."""
_PAUSE_EVERY = 100

_decoder = msgspec.json.Decoder(Record)

Spans = tuple[tuple[str, str], ...]
"""Times from the first (included) to the second (excluded), as they are in records, where they sort as text."""
BEGIN, END = "", "~"
"""Before and after all times."""
ALWAYS: Spans = ((BEGIN, END),)


@dataclass(frozen=True, slots=True)
class Reader:
    """A client that reads the log.

    `since`: when the client got its name; older records with this name are about another one. `keys`: the times in which
    records about a key may be read, by the key's digest in hex. `names`: the times in which such a key had a name.
    """

    client: str
    everything: bool = False
    since: str = BEGIN
    keys: Mapping[str, Spans] = field(default_factory=dict)
    names: Mapping[str, Spans] = field(default_factory=dict)

    def may_read(self, record: Record) -> bool:
        """Whether this client may read a record. For what follows from an attempt, give the attempt."""
        if self.everything or self._is(record.client, record.time):
            return True
        if record.key:
            return _within(self.keys.get(record.key), record.time)
        subject = subject_of(record.fields)
        if self._is(subject.client, record.time) or self._is(_vault_owner(record), record.time):
            return True
        digest = record.fields.get("key" if record.event == GRANT_USED_EVENT else KEY_DIGEST)
        if digest:
            return _within(self.keys.get(str(digest)), record.time)
        # Without a digest: written by an earlier release, or when there was no key of this name.
        return bool(subject.key) and _within(self.names.get(subject.key), record.time)

    def _is(self, client: str, at: str) -> bool:
        return client == self.client and at >= self.since


def _vault_owner(record: Record) -> str:
    """The owner of the vault that an event is about: it reads who has checked its keys, for one."""
    return str(record.fields.get("owner", "")) if record.event.startswith(VAULT_EVENTS) else ""


def _within(spans: Spans | None, at: str) -> bool:
    return spans is not None and any(begin <= at < end for begin, end in spans)


@dataclass(frozen=True, slots=True)
class Readable:
    """One answer: the records before the index `following` that a client may read.

    `away`: ranges (begin, end) of records in between that are not at hand; `undecided`: how many records were left out
    because the attempts that they follow from are not at hand.
    """

    lines: list[str]
    following: int
    away: list[tuple[int, int]]
    undecided: int


def about(files: FilesAtHand, size: int, first: int, limit: int, reader: Reader) -> Readable:
    """At most `limit` records that a client may read, from index `first` on; the log has `size` records.

    The number of records that are scanned is limited. Raises AuditFailure if the log was changed.
    """
    scan = _Scan(files, reader)
    lines: list[str] = []
    away: list[tuple[int, int]] = []
    bytes_left = MAX_PAGE_BYTES
    following, scanned = min(first, size), 0
    for index, line in files.lines(following):
        if index > following:
            away.append((following, index))
            following = index
        if index >= size:
            break
        scanned_enough = scanned >= MAX_SCANNED or scan.looked_up >= MAX_LOOKED_UP
        if scanned_enough or len(lines) == limit or bytes_left < 0:
            return Readable(lines, following, away, scan.undecided)
        if scan.wants(line):
            lines.append(text_of(line))
            bytes_left -= json_bytes(line)
        following, scanned = index + 1, scanned + 1
        if scanned % _PAUSE_EVERY == 0:
            time.sleep(0)  # let the event loop have the interpreter
    if following < size:
        away.append((following, size))
    return Readable(lines, size, away, scan.undecided)


def may_read(files: FilesAtHand, line: bytes, reader: Reader) -> bool:
    """Whether a client may read the record in this line."""
    return _Scan(files, reader).wants(line)


class _Scan:
    def __init__(self, files: FilesAtHand, reader: Reader) -> None:
        self._files = files
        self._reader = reader
        self._attempts: dict[int, bool | None] = {}
        self.looked_up = 0
        self.undecided = 0

    def wants(self, line: bytes) -> bool:
        record = _record(line)
        wanted = self._reader.may_read(record)
        if record.event == "attempt":
            self._attempts[record.index] = wanted
        attempt = _attempt_of(record)
        return wanted if wanted or attempt is None else self._wants_attempt(attempt)

    def _wants_attempt(self, index: int) -> bool:
        if index not in self._attempts:
            self._attempts[index] = self._may_read_attempt(index)
        wanted = self._attempts[index]
        if wanted is None:
            self.undecided += 1
        return bool(wanted)

    def _may_read_attempt(self, index: int) -> bool | None:
        """None if the attempt is not at hand."""
        self.looked_up += 1
        try:
            return self._reader.may_read(_record(self._files.line(index)))
        except NotFound:
            return None


def _attempt_of(record: Record) -> int | None:
    """The attempt that a record follows from: an outcome, or the use of a limited grant."""
    if record.event == "outcome":
        return record.attempt
    if record.event == GRANT_USED_EVENT:
        attempt = record.fields.get("attempt")
        return attempt if isinstance(attempt, int) else None
    return None


def _record(line: bytes) -> Record:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        raise AuditFailure(detail="a line of the log is no record; run `hsmd audit verify`") from None

"""Which records a client may read: operators and auditors all; others those about themselves and about keys they own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hsmd.daemon.audit.paging import MAX_PAGE_BYTES, json_bytes, offset_of, text_of
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, NotFound
from hsmd.protocol.audit_fields import subject_of
from hsmd.system.log_files import lines_from
from hsmd.transparency.records import Record

MAX_SCANNED = 5_000
"""Most records that are scanned for one answer."""
MAX_LOOKED_UP = 200
"""Most attempts that are looked up for one answer, because their outcomes are far behind them in the log."""
_PAUSE_EVERY = 100

_decoder = msgspec.json.Decoder(Record)


@dataclass(frozen=True, slots=True)
class Reader:
    """A client that reads the log. `owned`: names of the keys that it owns, by their digests in hex."""

    client: str
    everything: bool = False
    owned: Mapping[str, str] = field(default_factory=dict)

    def may_read(self, record: Record) -> bool:
        """Whether this client may read a record. For an outcome, give its attempt."""
        if self.everything:
            return True
        if record.event in ("attempt", "refusal"):
            return record.client == self.client or record.key in self.owned
        if record.client == self.client:
            return True
        subject = subject_of(record.fields)
        return subject.client == self.client or (bool(subject.key) and subject.key in self.owned.values())


def about(view: LogView, size: int, first: int, limit: int, reader: Reader) -> tuple[list[str], int]:
    """At most `limit` records that a client may read, from index `first` on, and the index to continue from.

    The number of records that are scanned is limited. Archived records are skipped. Raises AuditFailure if the log was changed.
    """
    first = max(first, view.first)
    if first >= size:
        return [], size
    scan = _Scan(view, reader)
    lines: list[str] = []
    bytes_left = MAX_PAGE_BYTES
    index = first
    for _, line in lines_from(view.read, offset_of(view, first, view.size), view.size):
        scanned_enough = index - first >= MAX_SCANNED or scan.looked_up >= MAX_LOOKED_UP
        if scanned_enough or len(lines) == limit or bytes_left < 0:
            return lines, index
        if scan.wants(index, line):
            lines.append(text_of(line))
            bytes_left -= json_bytes(line)
        index += 1
        if index % _PAUSE_EVERY == 0:
            time.sleep(0)  # let the event loop have the interpreter
    return lines, index


def may_read(view: LogView, line: bytes, reader: Reader) -> bool:
    """Whether a client may read the record in this line."""
    return _Scan(view, reader).wants(_record(line).index, line)


class _Scan:
    def __init__(self, view: LogView, reader: Reader) -> None:
        self._view = view
        self._reader = reader
        self._attempts: dict[int, bool] = {}
        self.looked_up = 0

    def wants(self, index: int, line: bytes) -> bool:
        record = _record(line)
        if record.index != index:
            raise AuditFailure(
                detail=f"record {record.index} stands where record {index} belongs; run `hsmd audit verify`"
            )
        if record.event == "outcome":
            return self._reader.everything or self._wants_attempt(record.attempt or 0)
        wanted = self._reader.may_read(record)
        if record.event == "attempt":
            self._attempts[index] = wanted
        return wanted

    def _wants_attempt(self, index: int) -> bool:
        known = self._attempts.pop(index, None)
        if known is not None:
            return known
        self.looked_up += 1
        try:
            start = offset_of(self._view, index, self._view.size)
        except NotFound:  # archived; most of its outcomes are, too
            return False
        _, line = next(lines_from(self._view.read, start, self._view.size))
        return self._reader.may_read(_record(line))


def _record(line: bytes) -> Record:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        raise AuditFailure(detail="a line of the log is no record; run `hsmd audit verify`") from None

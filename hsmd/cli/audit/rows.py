"""Audit records as table rows: attempts joined with their outcomes, filtered, read backwards from the end of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from hsmd.errors import NotFound, ProtocolError
from hsmd.protocol.audit_fields import KEY_DIGEST, subject_of
from hsmd.protocol.messages import MAX_PAGE, AuditPage
from hsmd.transparency.records import CHECKPOINT_EVENT, GRANT_USED_EVENT, Record, parse_record

HEADERS = ("INDEX", "TIME", "CLIENT", "OPERATION", "KEY", "RESULT")

_BEGUN = "control.begun"
_PERFORMED = "performed"
_FAILURES = frozenset({"refusal", "control.refused", "control.failed"})

ReadPage = Callable[[int, int], AuditPage]
"""(first index, number of records) -> page"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects records; empty members match everything. `digests` are those of `key`, which may have had other names."""

    client: str = ""
    key: str = ""
    digests: frozenset[str] = frozenset()
    since: str = ""
    """The time of the earliest record, as records have it."""
    failed: bool = False
    """Only what was refused or failed."""

    def fits(self, record: Record) -> bool:
        """Whether the record is about the client and the key, and late enough."""
        if record.time < self.since:
            return False
        if self.client and self.client not in (record.client, *record.fields.values()):
            return False
        return (
            not self.key
            or self.key in (record.key_name, *record.fields.values())
            or self._names_digest(record)
        )

    def _names_digest(self, record: Record) -> bool:
        named = {record.key, str(record.fields.get("key")), str(record.fields.get(KEY_DIGEST))}
        return not self.digests.isdisjoint(named)


@dataclass(frozen=True, slots=True)
class Row:
    """A record, with its outcome if it is an attempt to use a key or the begin of a control operation."""

    record: Record
    outcome: Record | None

    def fits(self, wanted: Filter) -> bool:
        """Whether one of its records fits: only the end of `key.generate` has the digest of the key that was made."""
        if wanted.failed and not self._failed:
            return False
        return wanted.fits(self.record) or (self.outcome is not None and wanted.fits(self.outcome))

    @property
    def _failed(self) -> bool:
        end = self.outcome if self.outcome is not None else self.record
        return end.event in _FAILURES or (end.event == "outcome" and end.result != _PERFORMED)

    @property
    def document(self) -> dict[str, Any]:
        """The row as a JSON document: the record, with its outcome as a member."""
        made: dict[str, Any] = msgspec.to_builtins(self.record)
        if self.outcome is not None:
            made["outcome"] = msgspec.to_builtins(self.outcome)
        return made

    @property
    def cells(self) -> tuple[str, ...]:
        """The table cells, in the order of HEADERS."""
        record = self.record
        return (
            str(record.index),
            _to_the_second(record.time),
            record.client,
            self._operation(),
            self._key(),
            self._result(),
        )

    def _operation(self) -> str:
        record = self.record
        if record.event in ("attempt", "refusal"):
            return record.purpose
        return str(record.fields.get("op", record.event))

    def _key(self) -> str:
        record = self.record
        if record.event == GRANT_USED_EVENT:
            return str(record.fields.get("key", ""))[:16]
        return record.key_name or record.key[:16] or subject_of(record.fields).key

    def _result(self) -> str:
        record = self.record
        if record.event == "refusal":
            return f"refused: {record.rule}"
        if record.event == "attempt":
            return "open" if self.outcome is None else _text(self.outcome.result, self.outcome.error)
        if record.event == CHECKPOINT_EVENT:
            return f"covers the first {record.fields.get('size')} records"
        if "op" not in record.fields:
            in_its_column = "key" if record.event == GRANT_USED_EVENT else ""
            return ", ".join(
                f"{name} {value}" for name, value in record.fields.items() if name != in_its_column
            )
        end = self.outcome if record.event == _BEGUN else record
        client = subject_of(record.fields).client
        stage = "open" if end is None else _stage(end)
        concerned = f"{stage}, client {client}" if client else stage
        return _text(concerned, "" if end is None else str(end.fields.get("error", "")))


def _stage(record: Record) -> str:
    """The last part of the event name: `done` for `control.done`."""
    return record.event.rpartition(".")[2]


def _text(result: str, error: str) -> str:
    return f"{result}: {error}" if error else result


def _to_the_second(time: str) -> str:
    """`2030-01-02 03:04:05Z` for `2030-01-02T03:04:05.678901Z`."""
    return f"{time[:19].replace('T', ' ')}Z"


def _begin_of(record: Record) -> int | None:
    """The index of the record that this one concludes; None if it concludes none."""
    begun = record.attempt if record.event == "outcome" else record.fields.get("begun")
    return begun if isinstance(begun, int) else None


def newest(read: ReadPage, wanted: Filter, count: int) -> tuple[list[Row], int]:
    """The last `count` matching rows, oldest first, and the size of the log. Raises ProtocolError for invalid records."""
    size = read(-1, 1).size
    rows: list[Row] = []
    outcomes: dict[int, Record] = {}
    end, step = size, MAX_PAGE
    while end > 0 and len(rows) < count and step:
        first = max(0, end - step)
        try:
            records = _records(read, first, end)
        except NotFound:  # older records were archived; show the available ones
            step //= 2
            continue
        for record in reversed(records):
            begun = _begin_of(record)
            if begun is not None:
                outcomes[begun] = record
            elif (row := Row(record, outcomes.pop(record.index, None))).fits(wanted):
                rows.append(row)
        if records and records[-1].time < wanted.since:
            break
        end = first
    return rows[:count][::-1], size


def newest_of(lines: Iterable[str], wanted: Filter, count: int) -> list[Row]:
    """As `newest`, of records that are given oldest first. Raises ProtocolError for invalid ones."""
    rows: dict[int, Row] = {}
    open_: dict[int, Record] = {}
    for line in lines:
        record = parse_record(line.encode("utf-8", "surrogatepass"))
        begun = _begin_of(record)
        if begun is not None and begun in rows:
            rows[begun] = Row(rows[begun].record, record)
            continue
        begin = None if begun is None else open_.pop(begun, None)
        row = Row(record, None) if begin is None else Row(begin, record)
        if row.fits(wanted):
            rows[row.record.index] = row
            if len(rows) > count:
                del rows[min(rows)]
        elif record.event in (_BEGUN, "attempt"):
            open_[record.index] = record
    return [rows[index] for index in sorted(rows)]


def one_line(line: str) -> str:
    """A record as a one-line summary. The caller must escape it: it contains text from clients."""
    record = parse_record(line.encode("utf-8", "surrogatepass"))
    if record.event == "outcome":
        return f"{_to_the_second(record.time)}  {record.index}  outcome of {record.attempt}: {_text(record.result, record.error)}"
    row = Row(record, None)
    parts = [
        row.record.client or "-",
        record.event,
        row.cells[3],
        row.cells[4],
        "" if record.event == "attempt" else row.cells[5],
    ]
    return "  ".join([_to_the_second(record.time), str(record.index), *(part for part in parts if part)])


def _records(read: ReadPage, first: int, end: int) -> list[Record]:
    """Records from `first` up to, not including, `end`; a daemon may return fewer at a time."""
    records: list[Record] = []
    while first < end:
        page = read(first, end - first)
        if page.first != first or not page.lines:
            raise ProtocolError(
                f"the daemon did not return audit record {first}, although its log has {page.size} records"
            )
        records += [parse_record(line.encode("utf-8", "surrogatepass")) for line in page.lines]
        first += len(page.lines)
    return records

"""Audit records as rows for people: attempt and outcome joined, filtered, read from the end of the log backwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from hsmd.errors import ProtocolError
from hsmd.protocol.messages import MAX_PAGE, AuditPage
from hsmd.transparency.records import Record, parse_record

HEADERS = ("INDEX", "TIME", "CLIENT", "WHAT", "KEY", "RESULT")

ReadPage = Callable[[int, int], AuditPage]
"""(first index, number of records) -> page"""


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show; empty members mean everything. `digest` is that of `key`, because refusals carry no name."""

    client: str = ""
    key: str = ""
    digest: str = ""

    def fits(self, record: Record) -> bool:
        """Whether the record is about client and key."""
        if self.client and self.client not in (record.client, *record.fields.values()):
            return False
        return not self.key or self.key in (record.key_name, *record.fields.values()) or self._names_digest(record)

    def _names_digest(self, record: Record) -> bool:
        return bool(self.digest) and record.key == self.digest


@dataclass(frozen=True, slots=True)
class Row:
    """One record, with the outcome if it is an attempt."""

    record: Record
    outcome: Record | None

    @property
    def document(self) -> dict[str, Any]:
        """The row for programs: the record, with its outcome as a member."""
        made: dict[str, Any] = msgspec.to_builtins(self.record)
        if self.outcome is not None:
            made["outcome"] = msgspec.to_builtins(self.outcome)
        return made

    @property
    def cells(self) -> tuple[str, ...]:
        """The row for people, in the order of HEADERS."""
        record = self.record
        what = f"{record.event} {record.purpose}".strip() if record.event != "attempt" else record.purpose
        return (str(record.index), record.time, record.client, what, record.key_name or record.key[:16], self._result())

    def _result(self) -> str:
        record, outcome = self.record, self.outcome
        if record.event == "attempt":
            return "open" if outcome is None else f"{outcome.result} {outcome.error}".strip()
        if record.event == "refusal":
            return record.rule
        return ", ".join(f"{name}={value}" for name, value in record.fields.items())


def newest(read: ReadPage, wanted: Filter, count: int) -> tuple[list[Row], int]:
    """The last `count` rows that fit, oldest first, and the size of the log. Raises ProtocolError for what is no record."""
    size = read(-1, 1).size
    rows: list[Row] = []
    outcomes: dict[int, Record] = {}
    end = size
    while end > 0 and len(rows) < count:
        first = max(0, end - MAX_PAGE)
        for record in reversed(_records(read, first, end)):
            if record.event == "outcome" and record.attempt is not None:
                outcomes[record.attempt] = record
            elif wanted.fits(record):
                rows.append(Row(record, outcomes.pop(record.index, None)))
            else:
                outcomes.pop(record.index, None)
        end = first
    return rows[:count][::-1], size


def _records(read: ReadPage, first: int, end: int) -> list[Record]:
    """Records `first` up to `end`; a daemon may answer with fewer lines than it was asked for."""
    records: list[Record] = []
    while first < end:
        page = read(first, end - first)
        if page.first != first or not page.lines:
            raise ProtocolError(f"the daemon has no audit record {first}, although its log has {page.size} records")
        records += [parse_record(line.encode("utf-8", "surrogatepass")) for line in page.lines]
        first += len(page.lines)
    return records

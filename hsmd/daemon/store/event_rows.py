"""Rows of events, in the order in which they were committed; within one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, union, update

from hsmd.daemon.store.columns import upserts
from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.records import EventPage, EventRecord, Gap, Readers
from hsmd.daemon.store.tables import event_keys, event_readers, events, ledger, ledger_epochs
from hsmd.errors import InternalFault, StoreFailure
from hsmd.protocol.cursor import Cursor

MAX_PAYLOAD_BYTES = 4096
MAX_APPENDS = 1_000
"""Events in one transaction."""
MAX_PAGE_EVENTS = 500
MAX_PAGE_BYTES = 256 * 1024
"""Payloads of one page; the first event is always in it."""
KEPT_FOR = timedelta(days=90)
KEPT_EVENTS = 100_000
KEYS_KEPT_FOR = timedelta(days=400)
PRUNE_STEP = 1_000
"""Rows that one transaction removes, so that events which are appended meanwhile wait for milliseconds."""

# Made once: making a statement costs more than running it, and the front does both beside the key operations.
_ADVANCE = (
    update(ledger).values(last=ledger.c.last + bindparam("by")).returning(ledger.c.last, ledger.c.epoch)
)
_INSERT_KEYS = upserts(
    event_keys, lambda statement: statement.on_conflict_do_nothing().returning(event_keys.c.key)
)
_INSERT_EVENTS, _INSERT_READERS = insert(events), insert(event_readers)

_LONGEST_KIND, _LONGEST_SUBJECT, _LONGEST_KEY = 64, 256, 256


@dataclass(frozen=True, slots=True)
class _Appended:
    kind: str
    subject: str
    readers: frozenset[str]
    key: str
    payload: str
    at: datetime


class Events:
    """What happened, for clients that read it later; `append` in a write transaction, the rest in any."""

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order
        self._appended: dict[str, _Appended] = {}

    def append(
        self,
        kind: str,
        subject: str,
        *,
        readers: Readers,
        payload: Mapping[str, Any],
        now: datetime,
        dedup: str = "",
    ) -> None:
        """Append an event when this transaction commits, unless one of this kind with the key `dedup` was before.

        It gets its number then, in `finish`, so the lock of the ledger is taken last and held for the shortest time.
        Raises InternalFault for what no producer may write: a payload beyond 4 KiB, or a name beyond its column.
        """
        encoded = msgspec.json.encode(payload).decode()
        _check(kind, subject, dedup, encoded)
        if len(self._appended) >= MAX_APPENDS:
            raise InternalFault(detail=f"more than {MAX_APPENDS} events in one transaction")
        key = f"{kind} {dedup}" if dedup else ""
        event = _Appended(kind, subject, readers.names(), key, encoded, now)
        self._appended.setdefault(key or f"#{len(self._appended)}", event)

    def finish(self) -> None:
        """Last step of a write transaction: number what was appended, and insert it."""
        appended = self._without_known_keys(list(self._appended.values()))
        self._appended = {}
        if not appended:
            return
        last, epoch = self._advance(len(appended))
        new = self._insert_keys(appended)
        if len(new) < len(appended):
            last, epoch = self._advance(len(new) - len(appended))
        self._insert(new, last - len(new), epoch)

    def head(self) -> Cursor:
        """The position after the newest event: one row, cheap enough to ask often."""
        row = self._ledger()
        return Cursor(row.epoch, row.last)

    def page(self, readers: Readers, since: Cursor | None, limit: int = MAX_PAGE_EVENTS) -> EventPage:
        """The events after `since` (None: from the oldest kept one) that any of these readers may read, oldest first.

        At most `limit` and 500 events and 256 KiB. The page's cursor is behind everything that was looked at, so that it
        stays new for a reader who has few events.
        """
        row = self._ledger()
        start, gap = (row.pruned, Gap.NONE) if since is None else self._locate(since, row)
        limit = max(1, min(limit, MAX_PAGE_EVENTS))
        found = self._connection.execute(
            select(events)
            .where(events.c.number.in_(self._numbers(readers, start, limit + 1)))
            .order_by(events.c.number)
            .limit(limit + 1)
        ).all()
        kept = _fitting(found[:limit])
        more = len(kept) < len(found)
        end = kept[-1].number if more else row.last
        return EventPage(tuple(_record(event) for event in kept), Cursor(row.epoch, end), gap, more)

    def prune(self, now: datetime) -> int:
        """Remove events older than 90 days or beyond 100,000, and keys older than 400 days; return how many rows.

        Removes at most 1,000 of each: to be repeated until it returns 0. Writes nothing if there is nothing to remove.
        """
        through = self._prunable(now)
        aged = select(event_keys.c.key).where(event_keys.c.at < now - KEYS_KEPT_FOR).limit(PRUNE_STEP)
        keys = list(self._connection.scalars(aged))
        if through is None and not keys:
            return 0
        self._advance(0)
        removed = 0
        if keys:
            removed += self._connection.execute(delete(event_keys).where(event_keys.c.key.in_(keys))).rowcount
        if through is not None:
            removed += self._connection.execute(delete(events).where(events.c.number <= through)).rowcount
            self._connection.execute(update(ledger).where(ledger.c.pruned < through).values(pruned=through))
        return removed

    # --- appending ---

    def _without_known_keys(self, appended: list[_Appended]) -> list[_Appended]:
        """Without those whose key is committed: usually that is all, and then nothing is locked or written."""
        keys = [event.key for event in appended if event.key]
        if not keys:
            return appended
        known = set(self._connection.scalars(select(event_keys.c.key).where(event_keys.c.key.in_(keys))))
        return [event for event in appended if event.key not in known]

    def _advance(self, by: int) -> tuple[int, str]:
        """Lock the ledger until the commit, and take the next numbers; return the last of them and the epoch."""
        self._order.take(Lock.LEDGER)
        row = self._connection.execute(_ADVANCE, {"by": by}).one_or_none()
        if row is None:
            raise _damaged()
        return row.last, row.epoch

    def _insert_keys(self, appended: list[_Appended]) -> list[_Appended]:
        """Insert the keys; return the events without those whose key was committed while this waited for the lock."""
        rows = [{"key": event.key, "at": event.at} for event in appended if event.key]
        if not rows:
            return appended
        new = set(self._connection.scalars(_INSERT_KEYS[self._connection.dialect.name], rows))
        return [event for event in appended if not event.key or event.key in new]

    def _insert(self, appended: list[_Appended], number: int, epoch: str) -> None:
        rows, readers = [], []
        for event in appended:
            number += 1
            rows.append(
                {
                    "number": number,
                    "epoch": epoch,
                    "kind": event.kind,
                    "subject": event.subject,
                    "payload": event.payload,
                    "at": event.at,
                }
            )
            readers += [{"reader": reader, "number": number} for reader in sorted(event.readers)]
        if rows:
            self._connection.execute(_INSERT_EVENTS, rows)
        if readers:
            self._connection.execute(_INSERT_READERS, readers)

    # --- reading ---

    def _ledger(self) -> Row[Any]:
        row = self._connection.execute(select(ledger)).one_or_none()
        if row is None:
            raise _damaged()
        return row

    def _locate(self, since: Cursor, row: Row[Any]) -> tuple[int, Gap]:
        """The number to read on after, and what lies between it and the cursor."""
        if since.epoch == row.epoch and since.number <= row.last:
            return (row.pruned, Gap.EXPIRED) if since.number < row.pruned else (since.number, Gap.NONE)
        if since.epoch != row.epoch:
            ended = select(ledger_epochs.c.last).where(ledger_epochs.c.epoch == since.epoch)
            last = self._connection.scalar(ended)
            if last is not None:
                return max(min(since.number, last), row.pruned), Gap.RESTORED
        return row.pruned, Gap.UNKNOWN

    def _numbers(self, readers: Readers, start: int, limit: int) -> Any:
        """The numbers of the next events of each reader: a range of the primary key each, however rare they are."""
        parts = [
            select(event_readers.c.number)
            .where(event_readers.c.reader == reader, event_readers.c.number > start)
            .order_by(event_readers.c.number)
            .limit(limit)
            .subquery()
            for reader in sorted(readers.names())
        ]
        return union(*(select(part.c.number) for part in parts)) if parts else []

    def _prunable(self, now: datetime) -> int | None:
        """The number of the last event to remove, among the oldest 1,000; None if all are to be kept."""
        beyond = self._ledger().last - KEPT_EVENTS
        oldest = select(events.c.number, events.c.at).order_by(events.c.number).limit(PRUNE_STEP)
        old = [
            number
            for number, at in self._connection.execute(oldest)
            if number <= beyond or at < now - KEPT_FOR
        ]
        return old[-1] if old else None


def _check(kind: str, subject: str, dedup: str, payload: str) -> None:
    for value, longest in ((kind, _LONGEST_KIND), (subject, _LONGEST_SUBJECT), (dedup, _LONGEST_KEY)):
        if len(value) > longest or not (value.isprintable() or value == ""):
            raise InternalFault(detail=f"an event's name is not 1 to {longest} printable characters")
    size = len(payload.encode())
    if size > MAX_PAYLOAD_BYTES:
        raise InternalFault(detail=f"the payload of {kind} has {size} bytes; {MAX_PAYLOAD_BYTES} are allowed")


def _fitting(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """The first rows whose payloads fit into a page, at least one."""
    kept: list[Row[Any]] = []
    size = 0
    for row in rows:
        size += len(row.payload.encode())
        if kept and size > MAX_PAGE_BYTES:
            break
        kept.append(row)
    return kept


def _record(row: Row[Any]) -> EventRecord:
    payload = msgspec.json.decode(row.payload, type=dict[str, Any])
    return EventRecord(Cursor(row.epoch, row.number), row.kind, row.subject, payload, row.at)


def _damaged() -> StoreFailure:
    return StoreFailure("the store is damaged", detail="no ledger row")

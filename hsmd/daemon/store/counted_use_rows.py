"""Rows of uses that were counted and that their daemon's log may not have yet, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, text, tuple_

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.records import CountedUse, UseId, WantedUse
from hsmd.daemon.store.tables import counted_uses

_INSERT = insert(counted_uses)
_ID = tuple_(counted_uses.c.grant_id, counted_uses.c.number)


class CountedUses:
    """Written when everything else is, so a transaction that has written here waits for no other one."""

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order
        self._added: list[CountedUse] = []
        self._removed: set[UseId] = set()

    def add(self, uses: Iterable[CountedUse]) -> None:
        """Keep these uses when this transaction commits."""
        self._added += uses

    def remove(self, uses: Iterable[UseId]) -> None:
        """Forget these uses when this transaction commits: their daemon has them in its log."""
        self._removed |= set(uses)

    def finish(self) -> None:
        """Last step of a write transaction."""
        if not (self._added or self._removed):
            return
        self._order.take(Lock.COUNTED_USES)
        if self._removed:
            self._connection.execute(delete(counted_uses).where(_ID.in_(sorted(self._removed))))
        if self._added:
            self._connection.execute(_INSERT, [_row(use) for use in self._added])
        self._added, self._removed = [], set()

    def all_of(self, origin: str) -> list[CountedUse]:
        """The uses of a log's daemon, also those whose commit is under way though their process was killed.

        They are few: a daemon counts few at a time, and removes those of the transaction before. To be called in a write.
        """
        self._order.take(Lock.COUNTED_USES)
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer, and it is this one
            self._connection.execute(text("LOCK TABLE counted_uses IN SHARE ROW EXCLUSIVE MODE"))
        query = select(counted_uses).where(counted_uses.c.origin == origin)
        rows = self._connection.execute(query.order_by(counted_uses.c.attempt))
        return [_use(row) for row in rows]

    def left_over(self, grants: Collection[int], before: datetime) -> dict[int, int]:
        """How many uses that were counted before that time are in the log of no daemon, by limited grant."""
        query = select(counted_uses.c.grant_id, func.count()).where(
            counted_uses.c.grant_id.in_(grants), counted_uses.c.counted_at < before
        )
        rows = self._connection.execute(query.group_by(counted_uses.c.grant_id))
        return {row[0]: row[1] for row in rows}


def _row(use: CountedUse) -> dict[str, Any]:
    wanted = use.wanted
    return {
        "grant_id": wanted.grant,
        "number": use.number,
        "origin": wanted.origin,
        "attempt": wanted.attempt,
        "client": wanted.client,
        "key_digest": wanted.key_digest,
        "purpose": wanted.purpose,
        "counted_at": use.counted_at,
    }


def _use(row: Row[Any]) -> CountedUse:
    wanted = WantedUse(row.grant_id, row.origin, row.attempt, row.client, bytes(row.key_digest), row.purpose)
    return CountedUse(wanted, row.number, row.counted_at)

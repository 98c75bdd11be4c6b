"""Rows of counters, which decide and count in one statement; within one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, select

from hsmd.daemon.store.columns import Upsert, upserts
from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.tables import counters

MAX_VALUE = 2**63 - 1


class Counters:
    """Numbers that only grow, each known by its name; a new one is 0."""

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order

    def value(self, name: str) -> int:
        """How far the counter is, 0 if it was never stepped."""
        return self._connection.scalar(select(counters.c.value).where(counters.c.name == name)) or 0

    def step(self, name: str, by: int = 1, limit: int | None = None) -> int | None:
        """Add `by` (at least 1) unless the sum would exceed `limit`; return the sum, or None if nothing was counted.

        Exact with any number of daemons: the row is locked until the transaction ends, so a count that is rolled back
        was never seen.
        """
        if by < 1:
            raise ValueError("a counter only grows")
        highest = MAX_VALUE if limit is None else limit
        if by > highest:
            return None
        self._order.take(Lock.COUNTER, name)
        counted: int | None = self._connection.scalar(
            _STEP[self._connection.dialect.name],
            {"counter": name, "first": by, "by": by, "highest_before": highest - by},
        )
        return counted


def _step(statement: Upsert) -> Any:
    new = statement.values(name=bindparam("counter"), value=bindparam("first"))
    return new.on_conflict_do_update(
        index_elements=[counters.c.name],
        set_={"value": counters.c.value + bindparam("by")},
        where=counters.c.value <= bindparam("highest_before"),
    ).returning(counters.c.value)


_STEP = upserts(counters, _step)

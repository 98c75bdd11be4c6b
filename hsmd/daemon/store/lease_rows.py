"""Rows of leases, each with a term that fences off the writes of an earlier holder; within one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Update, bindparam, or_, select, update

from hsmd.daemon.store.columns import Upsert, UtcDateTime, upserts
from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.records import Lease
from hsmd.daemon.store.tables import leases
from hsmd.errors import LeaseLost


class Leases:
    """Turns that one holder has at a time, for a limited time.

    A holder that was stopped or cut off may believe that it still has a lease. Times do not decide that, because the
    clocks of holders differ: a write for which the lease is needed starts with `fence`, which compares terms. It compares
    holders, too: after a restore terms can be given out again that the backup does not know.
    """

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order

    def find(self, name: str) -> Lease | None:
        """The lease as it stands, or None if it is free; it may have expired."""
        row = self._connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        if row is None or row.until is None:
            return None
        return Lease(name, row.holder, row.term, row.until)

    def acquire(self, name: str, holder: str, now: datetime, hold: timedelta) -> Lease | None:
        """Take a lease until `now` + `hold`, with a new term; None if another holder has it.

        The same holder takes it again with a new term, so that what it did before a restart is fenced off.
        """
        self._order.take(Lock.LEASE, name)
        until = now + hold
        term: int | None = self._connection.scalar(
            _ACQUIRE[self._connection.dialect.name],
            {"lease": name, "by": holder, "end": until, "at": now},
        )
        return None if term is None else Lease(name, holder, term, until)

    def renew(self, lease: Lease, now: datetime, hold: timedelta) -> Lease:
        """Prolong a lease until `now` + `hold`, even an expired one that was not taken. Raises LeaseLost."""
        renewed = replace(lease, until=now + hold)
        self._change(lease, update(leases).values(until=renewed.until))
        return renewed

    def release(self, lease: Lease) -> None:
        """Give a lease back; its term is never used again. Raises LeaseLost."""
        self._change(lease, update(leases).values(holder="", until=None))

    def end(self, name: str) -> None:
        """Take a lease from its holder, whoever that is: its later writes are fenced off."""
        self._order.take(Lock.LEASE, name)
        ended = update(leases).where(leases.c.name == name)
        self._connection.execute(ended.values(holder="", until=None, term=leases.c.term + 1))

    def fence(self, lease: Lease) -> None:
        """Let this transaction commit only while the lease has its term: lock its row, so that it is not taken meanwhile.

        Raises LeaseLost if it was released, or taken since.
        """
        self._order.take(Lock.LEASE, lease.name)
        query = (
            select(leases.c.holder, leases.c.term, leases.c.until)
            .where(leases.c.name == lease.name)
            .with_for_update()
        )
        row = self._connection.execute(query).one_or_none()
        if row is None or row.until is None or (row.holder, row.term) != (lease.holder, lease.term):
            raise LeaseLost

    def _change(self, lease: Lease, change: Update) -> None:
        self._order.take(Lock.LEASE, lease.name)
        held = (
            leases.c.name == lease.name,
            leases.c.holder == lease.holder,
            leases.c.term == lease.term,
            leases.c.until.is_not(None),
        )
        if self._connection.execute(change.where(*held)).rowcount == 0:
            raise LeaseLost


def _acquire(statement: Upsert) -> Any:
    new = {"holder": bindparam("by"), "until": bindparam("end", type_=UtcDateTime)}
    return (
        statement.values(name=bindparam("lease"), term=1, **new)
        .on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={**new, "term": leases.c.term + 1},
            where=or_(
                leases.c.until.is_(None),
                leases.c.until <= bindparam("at", type_=UtcDateTime),
                leases.c.holder == bindparam("by"),
            ),
        )
        .returning(leases.c.term)
    )


_ACQUIRE = upserts(leases, _acquire)

"""The row of `state`: the version of the contents, and the lock that orders changes of them; within one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.tables import state
from hsmd.errors import StoreFailure


class StateRow:
    """The only row of its table."""

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order

    def version(self) -> int:
        """A number that each write of the contents changes, of every daemon that shares the store."""
        return _number(self._connection.scalar(select(state.c.version)))

    def increment(self) -> int:
        """First statement of a write of the contents: lock the row, so that these writes run one after the other.

        Returns the new version.
        """
        self._order.take(Lock.STATE)
        changed = update(state).values(version=state.c.version + 1).returning(state.c.version)
        return _number(self._connection.scalar(changed))

    def lock(self) -> None:
        """Run after the writes of the contents under way and before later ones, without a new version."""
        self._order.take(Lock.STATE)
        _number(self._connection.scalar(select(state.c.version).with_for_update()))


def _number(version: int | None) -> int:
    if version is None:
        raise StoreFailure("the store is damaged", detail="no version row")
    return version

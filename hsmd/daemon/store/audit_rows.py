"""Rows about audit logs: newest checkpoints and declared discontinuities, within one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from hsmd.daemon.store.records import AuditHead
from hsmd.daemon.store.tables import audit_discontinuities, audit_heads
from hsmd.errors import Conflict


class AuditLogs:
    """What the store knows of the daemons' audit logs, each identified by its origin."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def head(self, origin: str) -> AuditHead | None:
        """The newest known state of a log, or None."""
        query = select(audit_heads).where(audit_heads.c.origin == origin)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else AuditHead(row.origin, row.size, bytes(row.root), row.key)

    def origins(self) -> list[str]:
        """The names of all logs, one for each daemon that has shared the store, in their order."""
        return list(self._connection.scalars(select(audit_heads.c.origin).order_by(audit_heads.c.origin)))

    def advance_head(self, new: AuditHead) -> None:
        """Remember a newer state of a log; an older one changes nothing."""
        values = {"size": new.size, "root": new.root, "key": new.key}
        newer = update(audit_heads).where(audit_heads.c.origin == new.origin, audit_heads.c.size < new.size)
        if self._connection.execute(newer.values(values)).rowcount == 0 and self.head(new.origin) is None:
            self._connection.execute(insert(audit_heads).values(origin=new.origin, **values))

    def declare_discontinuity(self, head: AuditHead, declared: str, note: str) -> None:
        """Replace the known state of a log, and keep the operator's note.

        Raises Conflict if a note with the same or a later time is stored.
        """
        known = select(audit_discontinuities.c.declared).where(
            audit_discontinuities.c.origin == head.origin, audit_discontinuities.c.declared >= declared
        )
        if self._connection.scalar(known.limit(1)) is not None:
            raise Conflict(
                "time: a discontinuity of this log was declared at that time, or later; sign a new one"
            )
        self._connection.execute(delete(audit_heads).where(audit_heads.c.origin == head.origin))
        self.advance_head(head)
        row = {"origin": head.origin, "declared": declared, "note": note}
        self._connection.execute(insert(audit_discontinuities).values(row))

    def discontinuities(self, origin: str) -> list[str]:
        """The notes about a log, newest last."""
        query = select(audit_discontinuities.c.note).where(audit_discontinuities.c.origin == origin)
        return list(self._connection.scalars(query.order_by(audit_discontinuities.c.declared)))

"""Rows of endorsements: operators' notes about the keys that sign statements; within one transaction."""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Connection, insert, select

from hsmd.daemon.store.tables import statement_endorsements
from hsmd.errors import Conflict


class StatementEndorsements:
    """The notes in which operators declared that a new key signs the daemons' statements."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, declared: str, note: str) -> None:
        """Keep a note that was declared at this time. Raises Conflict if one with the same or a later time is stored."""
        later = select(statement_endorsements.c.id).where(statement_endorsements.c.declared >= declared)
        if self._connection.scalar(later.limit(1)) is not None:
            raise Conflict("time: a key was endorsed at that time, or later; sign a new note")
        row = {"id": sha256(note.encode()).hexdigest(), "declared": declared, "note": note}
        self._connection.execute(insert(statement_endorsements).values(row))

    def all(self) -> list[str]:
        """The notes, newest last."""
        query = select(statement_endorsements.c.note).order_by(statement_endorsements.c.declared)
        return list(self._connection.scalars(query))

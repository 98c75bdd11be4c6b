"""Rows of statements about versions of records: a chain for each version, within one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select

from hsmd.daemon.store.records import Page
from hsmd.daemon.store.tables import vault_statements
from hsmd.daemon.store.vault_records import Stated, StatementRecord, VersionRecord
from hsmd.envelopes.vault.records import RecordStatement
from hsmd.errors import EnvelopeInvalid, StoreFailure

_BY_NUMBER = select(vault_statements).where(
    vault_statements.c.version_id == bindparam("version"), vault_statements.c.number == bindparam("number")
)


class VaultStatements:
    """What owners have signed. Nothing here is ever changed or removed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, version_row: int, stated: Stated) -> None:
        """Keep a statement about a version. One with the same number violates the primary key."""
        new = {
            "version_id": version_row,
            "number": stated.statement.number,
            "text": stated.text,
            "signature": stated.signature,
            "signer": stated.signer,
        }
        self._connection.execute(insert(vault_statements).values(new))

    def head(self, version: VersionRecord) -> StatementRecord:
        """The newest statement about a version."""
        same = {"version": version.row, "number": version.number}
        found = self._connection.execute(_BY_NUMBER, same).one_or_none()
        if found is None:
            raise StoreFailure("the store is damaged", detail="a version without its newest statement")
        return _record(found)

    def decoded_head(self, version: VersionRecord) -> RecordStatement:
        """What the newest statement about a version says. Raises StoreFailure if it was altered in the database."""
        try:
            return RecordStatement.decode(self.head(version).text)
        except EnvelopeInvalid as problem:
            raise StoreFailure("the store is damaged", detail=problem.text) from None

    def count(self, version_row: int) -> int:
        """How many statements there are about a version."""
        mine = vault_statements.c.version_id == version_row
        return self._connection.scalar(select(func.count()).select_from(vault_statements).where(mine)) or 0

    def page(self, version_row: int, after: int, limit: int) -> Page[StatementRecord]:
        """At most `limit` statements about a version by number, following the number `after`."""
        mine = vault_statements.c.version_id == version_row
        query = select(vault_statements).where(mine, vault_statements.c.number > after)
        rows = self._connection.execute(query.order_by(vault_statements.c.number).limit(limit + 1)).all()
        return Page.cut([_record(row) for row in rows], limit)


def _record(row: Row[Any]) -> StatementRecord:
    return StatementRecord(row.number, bytes(row.text), bytes(row.signature), bytes(row.signer))

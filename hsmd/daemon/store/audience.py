"""The clients that an event about a key concerns, by row id; within one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, union

from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.records import Readers
from hsmd.daemon.store.tables import grants, key_history, key_owners, limited_grants
from hsmd.protocol.roles import Role

WATCHING = frozenset({Role.OPERATOR, Role.AUDITOR})
"""Clients with these roles may read every event."""


def of_key(connection: Connection, keys: Keys, name: str) -> Readers:
    """Operators, auditors, the key's owner and readers, and the clients that may use it. Raises NotFound."""
    key = keys.get(name)
    key_id = keys.find_id(name)
    by_key = (grants, limited_grants, key_owners)
    clients = [select(table.c.client_id).where(table.c.key_id == key_id) for table in by_key]
    owner = select(key_history.c.owner_id).where(
        key_history.c.digest == key.digest,
        key_history.c.destroyed_at.is_(None),
        key_history.c.owner_id.is_not(None),
    )
    return Readers(WATCHING, frozenset(connection.scalars(union(*clients, owner))))

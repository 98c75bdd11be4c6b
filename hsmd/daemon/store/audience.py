"""The clients that an event about a key concerns, by row id; within one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, union

from hsmd.daemon.store.history_rows import owner_id_of
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.records import Readers
from hsmd.daemon.store.tables import grants, key_owners
from hsmd.protocol.roles import Role

WATCHING = frozenset({Role.OPERATOR, Role.AUDITOR})
"""Clients with these roles may read every event."""


def of_key(connection: Connection, keys: Keys, name: str) -> Readers:
    """Operators, auditors, the key's owner and readers, and the clients that may use it. Raises NotFound."""
    key_id = keys.find_id(name)
    clients = union(
        *(select(table.c.client_id).where(table.c.key_id == key_id) for table in (grants, key_owners)),
        owner_id_of(key_id),
    )
    return Readers(WATCHING, frozenset(connection.scalars(clients)))

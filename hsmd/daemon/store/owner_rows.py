"""Rows of key owners, clients that may read all audit records about a key; within one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.records import OwnerRecord
from hsmd.daemon.store.tables import clients, key_owners, keys


class KeyOwners:
    """The owners of keys."""

    def __init__(self, connection: Connection, client_rows: Clients, key_rows: Keys) -> None:
        self._connection = connection
        self._clients = client_rows
        self._keys = key_rows

    def add(self, key: str, client: str) -> bool:
        """Make a client an owner of a key; return whether it was not one already. Raises NotFound."""
        row = self._ids(key, client)
        if self._connection.execute(select(key_owners).filter_by(**row)).one_or_none() is not None:
            return False
        self._connection.execute(insert(key_owners).values(row))
        return True

    def remove(self, key: str, client: str) -> bool:
        """Remove an owner of a key; return whether it was one. Raises NotFound for an unknown key or client."""
        removed = self._connection.execute(delete(key_owners).filter_by(**self._ids(key, client)))
        return removed.rowcount > 0

    def all(self) -> list[OwnerRecord]:
        """All owners in order of key and client."""
        query = (
            select(keys.c.name, keys.c.digest, clients.c.name)
            .join(key_owners, key_owners.c.key_id == keys.c.id)
            .join(clients, clients.c.id == key_owners.c.client_id)
            .order_by(keys.c.name, clients.c.name)
        )
        rows = self._connection.execute(query)
        return [OwnerRecord(key, bytes(digest), client) for key, digest, client in rows]

    def _ids(self, key: str, client: str) -> dict[str, int]:
        return {"key_id": self._keys.find_id(key), "client_id": self._clients.find_id(client)}

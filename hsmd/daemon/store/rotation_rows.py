"""A client's key and its successor: each function runs inside its caller's transaction.

A client can add one further key to itself, and once it comes with that, take away the one it replaces.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from hsmd.daemon.store import client_rows
from hsmd.daemon.store.records import CredentialRecord
from hsmd.daemon.store.tables import credentials
from hsmd.errors import Conflict


def begin(connection: Connection, client: str, current: str, successor: CredentialRecord) -> bool:
    """Whether the successor is new. Raises NotFound, Conflict if another one is there or the key is somebody's."""
    client_id = client_rows.find_id(connection, client)
    under_way = select(credentials).where(
        credentials.c.client_id == client_id, credentials.c.successor_of.is_not(None)
    )
    for row in connection.execute(under_way):
        if (row.fingerprint, row.successor_of) == (successor.fingerprint, current):
            return False
        raise Conflict("this client has a next key already; finish with that one, or have an operator revoke it")
    client_rows.add_credential(connection, client, successor)
    mine = credentials.c.fingerprint == successor.fingerprint
    connection.execute(update(credentials).where(mine).values(successor_of=current))
    return True


def finish(connection: Connection, client: str, current: str) -> bool:
    """Take away the key that `current` is the successor of; was there any? Raises NotFound."""
    client_id = client_rows.find_id(connection, client)
    mine = (credentials.c.fingerprint == current) & (credentials.c.client_id == client_id)
    before: str | None = connection.scalar(select(credentials.c.successor_of).where(mine))
    if before is None:
        return False
    connection.execute(update(credentials).where(mine).values(successor_of=None))
    gone = (credentials.c.fingerprint == before) & (credentials.c.client_id == client_id)
    connection.execute(delete(credentials).where(gone))
    return True

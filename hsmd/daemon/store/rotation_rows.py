"""A client's key and its successor: each function runs inside its caller's transaction.

A client can add one further key to itself, and once it comes with that, take away the one it replaces.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from hsmd.daemon.store import client_rows
from hsmd.daemon.store.records import CredentialRecord
from hsmd.daemon.store.tables import credentials, revocations
from hsmd.errors import BadRequest, Conflict, Refused


def begin(connection: Connection, client: str, current: str, successor: CredentialRecord) -> bool:
    """Whether the successor is new. Raises NotFound, Conflict if another one is there or the key is somebody's.

    The caller decided on a snapshot that may be older than the end of `current`; a key that was taken away or revoked in
    between (Refused) must not leave another one behind.
    """
    client_id = client_rows.find_id(connection, client)
    if not _is_mine(connection, client_id, current) or _is_revoked(connection, current):
        raise Refused(detail="the key that the client came with has ended meanwhile")
    if _is_revoked(connection, successor.fingerprint):
        raise BadRequest("public_key: this key was revoked, which is for ever; make a new one")
    under_way = select(credentials).where(
        credentials.c.client_id == client_id, credentials.c.successor_of.is_not(None)
    )
    for row in connection.execute(under_way):
        if (row.fingerprint, row.successor_of) == (successor.fingerprint, current):
            return False
        raise Conflict(
            "this client has a next key already; finish with that one, or have an operator revoke it"
        )
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


def revoked(connection: Connection, fingerprint: str) -> None:
    """A key was revoked: end the rotation that it has a part in, as the old key or as the next one.

    What a stolen key named as its successor is the thief's; and a next key that nobody can come with would be in the way of
    every other.
    """
    part = (credentials.c.fingerprint == fingerprint) | (credentials.c.successor_of == fingerprint)
    connection.execute(delete(credentials).where(part, credentials.c.successor_of.is_not(None)))


def _is_mine(connection: Connection, client_id: int, fingerprint: str) -> bool:
    mine = (credentials.c.fingerprint == fingerprint) & (credentials.c.client_id == client_id)
    return connection.execute(select(credentials.c.fingerprint).where(mine)).first() is not None


def _is_revoked(connection: Connection, fingerprint: str) -> bool:
    found = (revocations.c.kind == "key") & (revocations.c.value == fingerprint)
    return connection.execute(select(revocations.c.value).where(found)).first() is not None

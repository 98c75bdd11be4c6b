"""Rows about audit logs and about owners of keys; each function runs inside its caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from hsmd.daemon.store import client_rows, key_rows
from hsmd.daemon.store.records import AuditHead, OwnerRecord
from hsmd.daemon.store.tables import audit_discontinuities, audit_heads, clients, key_owners, keys
from hsmd.errors import Conflict


def head(connection: Connection, origin: str) -> AuditHead | None:
    """The newest state known of a log."""
    row = connection.execute(select(audit_heads).where(audit_heads.c.origin == origin)).one_or_none()
    return None if row is None else AuditHead(row.origin, row.size, bytes(row.root), row.key)


def advance_head(connection: Connection, new: AuditHead) -> None:
    """Remember a newer state of a log; an older one changes nothing."""
    values = {"size": new.size, "root": new.root, "key": new.key}
    newer = update(audit_heads).where(audit_heads.c.origin == new.origin, audit_heads.c.size < new.size)
    if connection.execute(newer.values(values)).rowcount == 0 and head(connection, new.origin) is None:
        connection.execute(insert(audit_heads).values(origin=new.origin, **values))


def add_discontinuity(connection: Connection, new: AuditHead, declared: str, note: str) -> None:
    """Remember this state in place of whatever was known, and the note that says so. Raises Conflict if it was there."""
    known = select(audit_discontinuities.c.declared).where(
        audit_discontinuities.c.origin == new.origin, audit_discontinuities.c.declared >= declared
    )
    if connection.scalar(known.limit(1)) is not None:
        raise Conflict(
            "time: a discontinuity of this log was declared at that time, or later; sign a new one"
        )
    connection.execute(delete(audit_heads).where(audit_heads.c.origin == new.origin))
    advance_head(connection, new)
    connection.execute(insert(audit_discontinuities).values(origin=new.origin, declared=declared, note=note))


def discontinuities(connection: Connection, origin: str) -> list[str]:
    """The notes about a log, newest last."""
    query = select(audit_discontinuities.c.note).where(audit_discontinuities.c.origin == origin)
    return list(connection.scalars(query.order_by(audit_discontinuities.c.declared)))


def add_owner(connection: Connection, key: str, client: str) -> bool:
    """Was there anything to add? Raises NotFound."""
    row = {"key_id": key_rows.find_id(connection, key), "client_id": client_rows.find_id(connection, client)}
    if connection.execute(select(key_owners).filter_by(**row)).one_or_none() is not None:
        return False
    connection.execute(insert(key_owners).values(row))
    return True


def remove_owner(connection: Connection, key: str, client: str) -> bool:
    """Was there anything to take away? Raises NotFound."""
    row = {"key_id": key_rows.find_id(connection, key), "client_id": client_rows.find_id(connection, client)}
    return connection.execute(delete(key_owners).filter_by(**row)).rowcount > 0


def load_owners(connection: Connection) -> list[OwnerRecord]:
    """All owners in the order of keys and clients."""
    query = (
        select(keys.c.name, keys.c.digest, clients.c.name)
        .join(key_owners, key_owners.c.key_id == keys.c.id)
        .join(clients, clients.c.id == key_owners.c.client_id)
        .order_by(keys.c.name, clients.c.name)
    )
    return [OwnerRecord(key, bytes(digest), client) for key, digest, client in connection.execute(query)]

"""What a client that has something in the vault cannot lose, and the locks behind it; within one transaction.

A client is renamed, removed or loses its role under a lock of its row that excludes the one under which it begins to have
something in the vault. Without it, each could see the state before the other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.tables import clients, vault_allowed, vault_management_keys, vault_owners
from hsmd.errors import Conflict


def lock_client(connection: Connection, order: LockOrder, client_id: int, *, shared: bool = False) -> None:
    """Lock the row of a client; `shared`: against changes only, and together with others."""
    order.take(Lock.CLIENT, f"{client_id:020}")
    query = select(clients.c.id).where(clients.c.id == client_id)
    connection.execute(query.with_for_update(read=shared)).all()


def lock_owner(connection: Connection, order: LockOrder, owner_id: int) -> Row[Any]:
    """Lock the row of an owner against changes, and return it. Rows that refer to it can be inserted meanwhile."""
    order.take(Lock.VAULT_OWNER, f"{owner_id:020}")
    query = select(vault_owners).where(vault_owners.c.owner_id == owner_id)
    return connection.execute(query.with_for_update(key_share=True)).one()


def keep_name(connection: Connection, order: LockOrder, client: Row[Any]) -> None:
    """To be called before a client is renamed. Raises Conflict if it has, or had, something in the vault."""
    if _find(connection, order, client) is not None:
        raise Conflict(
            f"name: {client.name!r} has keys in the vault, or had some, and the signed statements about them have its name; "
            "add another client with the new name, and deposit the keys there with `hsmd vault put`"
        )


def keep_role(connection: Connection, order: LockOrder, client: Row[Any]) -> None:
    """To be called before the role `owner` is taken from a client. Raises Conflict as `keep_name`."""
    if _find(connection, order, client) is not None:
        raise Conflict(
            f"role: {client.name!r} has keys in the vault, or had some, and keeps its right to read about them; "
            "to take the keys away, destroy them with `hsmd vault destroy`"
        )


def leave(connection: Connection, order: LockOrder, client: Row[Any]) -> None:
    """To be called before a client is removed: what was in the vault stays there, under the name that it had.

    Raises Conflict if there are keys that are not destroyed.
    """
    owner = _find(connection, order, client)
    if owner is None:
        return
    if owner.versions:
        raise Conflict(
            f"name: {client.name!r} has {owner.versions} version{'s' * (owner.versions > 1)} of keys in the vault that "
            f"{'are' if owner.versions > 1 else 'is'} not destroyed, and would lose them; the owner destroys them first with "
            "`hsmd vault destroy`"
        )
    mine = vault_management_keys.c.owner_id == owner.owner_id
    in_use = vault_management_keys.c.state.in_(("pending", "active", "replaced"))
    connection.execute(update(vault_management_keys).where(mine, in_use).values(state="retired"))
    connection.execute(delete(vault_allowed).where(vault_allowed.c.owner_id == owner.owner_id))
    gone = update(vault_owners).where(vault_owners.c.owner_id == owner.owner_id)
    connection.execute(gone.values(client_id=None, checkers=False))


def _find(connection: Connection, order: LockOrder, client: Row[Any]) -> Row[Any] | None:
    lock_client(connection, order, client.id)
    found = connection.scalar(select(vault_owners.c.owner_id).where(vault_owners.c.client_id == client.id))
    return None if found is None else lock_owner(connection, order, found)

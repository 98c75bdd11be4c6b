"""Rows of owners in the vault, and what having one means for a client, within one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.lock_order import LockOrder
from hsmd.daemon.store.names import searchable
from hsmd.daemon.store.tables import clients, vault_owners
from hsmd.daemon.store.vault_owner_locks import lock_client, lock_owner
from hsmd.daemon.store.vault_quotas import MAX_VERSIONS
from hsmd.daemon.store.vault_records import VaultUsage
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.roles import Role

# Made once: to make a statement of a query takes longer than to execute it.
_BY_NAME = (
    select(vault_owners)
    .join(clients, clients.c.id == vault_owners.c.client_id)
    .where(clients.c.name == bindparam("owner"))
)


class VaultOwners:
    """The clients that have, or had, something in the vault."""

    def __init__(self, connection: Connection, client_rows: Clients, order: LockOrder) -> None:
        self._connection = connection
        self._clients = client_rows
        self._order = order
        self._ids: dict[str, int] = {}

    def find(self, owner: str) -> Row[Any] | None:
        """The row of the client with this name; None if it has nothing in the vault, or if there is none."""
        found = self._connection.execute(_BY_NAME, {"owner": searchable(owner)}).one_or_none()
        if found is not None:
            self.remember(owner, int(found.owner_id))
        return found

    def remember(self, owner: str, owner_id: int) -> None:
        """Another query of this transaction has found the row id."""
        self._ids[owner] = owner_id

    def id_of(self, owner: str) -> int | None:
        """The row id of the client with this name, as `find`; a transaction looks for it once."""
        if owner not in self._ids:
            self.find(owner)
        return self._ids.get(owner)

    def begin(self, owner: str) -> Row[Any]:
        """The row of a client, made if there is none, and locked until the transaction ends.

        Raises NotFound for an unknown client, BadRequest for one without the role `owner`.
        """
        lock_client(self._connection, self._order, self._clients.find_id(owner), shared=True)
        client = self._clients.row(owner)  # read again: it may have lost name or role while this waited
        if Role.OWNER not in self._clients.roles_of(client):
            raise BadRequest(f"owner: {owner!r} does not have the role owner; add it with `hsmd client role`")
        if self.find(owner) is None:
            new = {"owner_id": client.id, "client_id": client.id, "name": client.name, "checkers": False}
            self._connection.execute(insert(vault_owners).values(**new, versions=0, bytes=0))
        return self.locked(owner)

    def locked(self, owner: str) -> Row[Any]:
        """The row of a client, locked until the transaction ends, so that its changes run one after the other.

        Raises Conflict if the client has no management key.
        """
        found = self.find(owner)
        if found is None:
            raise no_management_key(owner)
        return lock_owner(self._connection, self._order, found.owner_id)

    def charge(self, owner: Row[Any], *, size: int, most: int, versions: int = 0) -> None:
        """Count versions and bytes of an owner whose row is locked; negative ones give room back.

        Raises BadRequest if something is to be added beyond MAX_VERSIONS or `most` bytes.
        """
        if versions > 0 and owner.versions + versions > MAX_VERSIONS:
            raise BadRequest(
                f"record: {owner.name} has {owner.versions} versions in the vault, and {MAX_VERSIONS} are allowed; "
                "destroy those that are not needed (`hsmd vault destroy`)"
            )
        if size > 0 and owner.bytes + size > most:
            raise BadRequest(
                f"envelope: what {owner.name} keeps in the vault would have {owner.bytes + size} bytes, and {most} are "
                "allowed; destroy versions that are not needed (`hsmd vault destroy`)"
            )
        same = vault_owners.c.owner_id == owner.owner_id
        counted = {"versions": vault_owners.c.versions + versions, "bytes": vault_owners.c.bytes + size}
        self._connection.execute(update(vault_owners).where(same).values(counted))

    def usage(self, owner: str) -> VaultUsage:
        """What a client keeps in the vault."""
        found = self.find(owner)
        return VaultUsage(found.versions, found.bytes) if found else VaultUsage(0, 0)


def no_management_key(owner: str) -> Conflict:
    """The error for an owner who has not registered a management key that counts."""
    return Conflict(
        f"owner: {owner!r} has no management key; register one with `hsmd vault register`, and have an operator confirm it"
    )

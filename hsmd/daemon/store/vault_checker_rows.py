"""Rows of who may check an owner's keys, and what a check finds; within one transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, update

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.lock_order import LockOrder
from hsmd.daemon.store.names import searchable
from hsmd.daemon.store.tables import clients, vault_allowed, vault_management_keys, vault_owners
from hsmd.daemon.store.vault_owner_locks import lock_client
from hsmd.daemon.store.vault_owner_rows import VaultOwners
from hsmd.daemon.store.vault_quotas import MAX_ALLOWED
from hsmd.daemon.store.vault_records import AllowedCheckers, CheckFacts, KeyState
from hsmd.daemon.store.vault_version_rows import VaultVersions
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role

_CONFIRMED = (KeyState.ACTIVE.value, KeyState.REPLACED.value)
_NAMED = select(vault_allowed.c.since).where(
    vault_allowed.c.owner_id == bindparam("owner"), vault_allowed.c.client_id == bindparam("client")
)
# A check asks everything about owner and asker in one statement, so that the time of an answer tells who has no right little
# of which owners there are. A few microseconds of difference are left: an unknown owner is a row that is not found.
_ASKED = (
    select(
        vault_owners.c.owner_id,
        vault_owners.c.checkers,
        exists()
        .where(vault_allowed.c.owner_id == vault_owners.c.owner_id)
        .where(vault_allowed.c.client_id == bindparam("asker"))
        .label("named"),
        exists()
        .where(vault_management_keys.c.owner_id == vault_owners.c.owner_id)
        .where(vault_management_keys.c.state.in_(_CONFIRMED))
        .label("confirmed"),
    )
    .join(clients, clients.c.id == vault_owners.c.client_id)
    .where(clients.c.name == bindparam("owner"))
)


class VaultCheckers:
    """The clients that owners let check their keys. An owner may always check its own."""

    def __init__(
        self,
        connection: Connection,
        client_rows: Clients,
        owners: VaultOwners,
        versions: VaultVersions,
        order: LockOrder,
    ) -> None:
        self._connection = connection
        self._clients = client_rows
        self._owners = owners
        self._versions = versions
        self._order = order

    def allow(self, owner: str, client: str, now: datetime) -> bool:
        """Let a client check an owner's keys; return whether that is new.

        Raises NotFound for an unknown client, BadRequest for the owner itself and beyond MAX_ALLOWED clients, Conflict if the
        owner has no management key.
        """
        client_id = self._clients.find_id(client)
        lock_client(self._connection, self._order, client_id, shared=True)
        row = self._owners.locked(owner)
        if client_id == row.owner_id:
            raise BadRequest(f"client: {client!r} may check its own keys anyhow")
        if self._is_named(row.owner_id, client_id):
            return False
        if self._count(row.owner_id) >= MAX_ALLOWED:
            raise BadRequest(
                f"client: {owner} has named {MAX_ALLOWED} clients already; disallow some, or allow every client with the "
                "role checker (`hsmd vault allow --checkers`)"
            )
        new = {"owner_id": row.owner_id, "client_id": client_id, "since": now}
        self._connection.execute(insert(vault_allowed).values(new))
        return True

    def disallow(self, owner: str, client: str) -> bool:
        """Let a client check no more; return whether it could. Raises NotFound for an unknown client."""
        client_id = self._clients.find_id(client)
        row = self._owners.locked(owner)
        same = (vault_allowed.c.owner_id == row.owner_id) & (vault_allowed.c.client_id == client_id)
        return self._connection.execute(delete(vault_allowed).where(same)).rowcount > 0

    def allow_role(self, owner: str, *, allowed: bool) -> bool:
        """Let every client with the role `checker` check an owner's keys, or no more; return whether that is a change."""
        row = self._owners.locked(owner)
        same = vault_owners.c.owner_id == row.owner_id
        self._connection.execute(update(vault_owners).where(same).values(checkers=allowed))
        return bool(row.checkers) != allowed

    def allowed(self, owner: str) -> AllowedCheckers:
        """Who may check an owner's keys."""
        row = self._owners.find(owner)
        if row is None:
            return AllowedCheckers()
        named = select(clients.c.name).join(vault_allowed, vault_allowed.c.client_id == clients.c.id)
        mine = named.where(vault_allowed.c.owner_id == row.owner_id).order_by(clients.c.name)
        return AllowedCheckers(tuple(self._connection.scalars(mine)), bool(row.checkers))

    def look_up(
        self, owner: str, asker_row: int, roles: frozenset[Role], key: bytes, record: str = ""
    ) -> CheckFacts | None:
        """What is known of a key (its digest) for a client that asks, of all records of an owner or one.

        None if that is not to be answered: there is no such owner, it has no confirmed management key, or it does not let
        this client ask.
        """
        asked = {"owner": searchable(owner), "asker": asker_row}
        row = self._connection.execute(_ASKED, asked).one_or_none()
        if row is None or not row.confirmed:
            return None
        self._owners.remember(owner, int(row.owner_id))
        if not (row.named or asker_row == row.owner_id or (row.checkers and Role.CHECKER in roles)):
            return None
        return CheckFacts(int(row.owner_id), self._versions.find_public(row.owner_id, key, record))

    def owner_row(self, owner: str) -> int:
        """The row id with which refused checks are counted for an owner; 0 if there is no such owner."""
        row = self._owners.find(owner)
        return 0 if row is None else int(row.owner_id)

    def _count(self, owner_id: int) -> int:
        mine = select(func.count()).select_from(vault_allowed).where(vault_allowed.c.owner_id == owner_id)
        return self._connection.scalar(mine) or 0

    def _is_named(self, owner_id: int, client_id: int) -> bool:
        return self._connection.scalar(_NAMED, {"owner": owner_id, "client": client_id}) is not None

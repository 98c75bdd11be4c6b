"""Rows of clients, their roles and their credentials, within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, insert, or_, select, update

from hsmd.daemon.store import vault_owner_locks as vault
from hsmd.daemon.store.lock_order import LockOrder
from hsmd.daemon.store.names import check_after, check_name, searchable, unknown
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, Page
from hsmd.daemon.store.tables import (
    ca_clients,
    cas,
    client_roles,
    clients,
    credentials,
    enrolments,
    grant_uses,
    grants,
    key_history,
    limited_grants,
    node_permits,
)
from hsmd.daemon.store.use_counts import keep_name, wait_for_uses
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.enrolment import USER as ENROLMENT_USER
from hsmd.protocol.roles import Role, check_roles, in_order

_OLD_ROLES = frozenset({Role.OPERATOR, Role.AUDITOR, Role.FRONT_END})
"""The roles that releases with one role per client know."""


class Clients:
    """The clients and the public keys that identify them."""

    def __init__(self, connection: Connection, order: LockOrder) -> None:
        self._connection = connection
        self._order = order

    def add(
        self, name: str, roles: frozenset[Role], now: datetime, credential: CredentialRecord | None = None
    ) -> None:
        """Add a client, with its first credential if there is one.

        Raises BadRequest for an invalid name or set of roles, Conflict if the name or the credential is taken.
        """
        _check_client_name("name", name)
        check_roles(roles)
        self._check_is_free(name)
        row = {"name": name, "role": _old_role(roles), "created_at": now, "named_at": now}
        self._connection.execute(insert(clients).values(row))
        self._write_roles(self.find_id(name), roles)
        if credential is not None:
            self.add_credential(name, credential)

    def ensure(self, name: str, roles: frozenset[Role], now: datetime) -> None:
        """Add a client unless it exists.

        Raises BadRequest for an invalid name or set of roles, Conflict if the client has other roles.
        """
        try:
            self.check_has(name, roles)
        except NotFound:
            self.add(name, roles, now)

    def check_has(self, name: str, roles: frozenset[Role]) -> None:
        """Raises Conflict unless these are the roles of the client, NotFound if there is none."""
        held = self.get(name).roles
        if held != roles:
            raise Conflict(
                f"role: {name!r} is a client with {_words(held)}, not {_words(roles)}; "
                "give the roles that it has, or change them with `hsmd client role`"
            )

    def add_role(self, name: str, role: Role) -> bool:
        """Give a client a further role; return whether it is new. Raises NotFound, BadRequest for a set that may not be.

        Its enrolment token is void then: it was made for other roles, perhaps to be used where this one is not admitted.
        """
        client = self.row(name)
        held = self.roles_of(client)
        if role in held:
            return False
        check_roles(held | {role})
        self._write_roles(client.id, held | {role})
        self._connection.execute(delete(enrolments).where(enrolments.c.client_id == client.id))
        return True

    def remove_role(self, name: str, role: Role) -> bool:
        """Take a role from a client; return whether it had it.

        Raises NotFound, BadRequest for its only role, Conflict for the role of an owner to which keys belong or belonged, in
        a token or in the vault: that would take away its right to read about them.

        With the role of a front end it loses its grants: a daemon of a release with one role per client would go on using
        them, and they would be back with the role. With the role of a node it loses what authorities may issue to it.
        """
        client = self.row(name)
        held = self.roles_of(client)
        if role not in held:
            return False
        if held == {role}:
            raise BadRequest(
                f"role: {role.value} is the only role of {name!r}; add another one first, or remove the client"
            )
        if role is Role.OWNER and self._connection.scalar(_owned_by(client.id)) is not None:
            raise Conflict(
                f"role: keys belong or belonged to {name!r}, which keeps its right to read about them; `hsmd key list` and "
                "`hsmd key list --destroyed` show them"
            )
        if role is Role.OWNER:
            vault.keep_role(self._connection, self._order, client)
        self._write_roles(client.id, held - {role})
        if role is Role.FRONT_END:
            wait_for_uses(self._connection, self._order, limited_grants.c.client_id == client.id)
            for kind in (grants, limited_grants):
                self._connection.execute(delete(kind).where(kind.c.client_id == client.id))
        if role is Role.NODE:
            self._connection.execute(delete(node_permits).where(node_permits.c.client_id == client.id))
        return True

    def roles_of(self, client: Row[Any]) -> frozenset[Role]:
        """The roles of a client, by its row."""
        return _roles(client, self._roles(client_roles.c.client_id == client.id))

    def _write_roles(self, client_id: int, roles: frozenset[Role]) -> None:
        """Replace the roles that this release knows."""
        known = [role.value for role in Role]
        stale = (client_roles.c.client_id == client_id) & client_roles.c.role.in_(known)
        self._connection.execute(delete(client_roles).where(stale))
        rows = [{"client_id": client_id, "role": role.value} for role in in_order(roles)]
        self._connection.execute(insert(client_roles), rows)
        same = clients.c.id == client_id
        self._connection.execute(update(clients).where(same).values(role=_old_role(roles)))

    def add_credential(self, client: str, credential: CredentialRecord) -> None:
        """Raises NotFound for an unknown client, Conflict if any client has this key already."""
        check_fingerprint(credential.fingerprint)
        client_id = self.find_id(client)
        same_key = credentials.c.fingerprint == credential.fingerprint
        owner = self._connection.scalar(select(clients.c.name).join(credentials).where(same_key))
        if owner is not None:
            raise Conflict(f"the client {owner} has this key already; a key identifies one client only")
        row = {
            "fingerprint": credential.fingerprint,
            "client_id": client_id,
            "public_key": credential.public_key,
        }
        self._connection.execute(insert(credentials).values(row))

    def get(self, name: str) -> ClientRecord:
        """The client of this name. Raises NotFound."""
        return self._records([self.row(name)])[0]

    def row(self, name: str) -> Row[Any]:
        """The row of a client. Raises NotFound."""
        query = select(clients).where(clients.c.name == searchable(name))
        found = self._connection.execute(query).one_or_none()
        if found is None:
            raise unknown("client", name)
        return found

    def check_is_front_end(self, client: Row[Any]) -> None:
        """Raises BadRequest for a client that cannot hold grants."""
        if Role.FRONT_END not in self.roles_of(client):
            raise BadRequest(
                f"client: {client.name!r} is not a front end, and only a front end can hold a grant; "
                "add the role front-end to its roles"
            )

    def find_id(self, name: str) -> int:
        """The row id of a client. Raises NotFound."""
        client_id: int = self.row(name).id
        return client_id

    def page(self, after: str, limit: int) -> Page[ClientRecord]:
        """At most `limit` clients in order of name, following `after` ("" for the first page).

        Raises BadRequest for an invalid `after`.
        """
        query = select(clients).where(clients.c.name > check_after(after))
        rows = self._connection.execute(query.order_by(clients.c.name).limit(limit + 1)).all()
        return Page.cut(self._records(rows), limit)

    def all(self) -> list[ClientRecord]:
        """All clients in order of name."""
        rows = self._connection.execute(select(clients).order_by(clients.c.name)).all()
        roles, found = self._roles(), self._credentials(select(credentials))
        return [_record(each, roles, found) for each in rows]

    def with_role(self, role: Role) -> list[ClientRecord]:
        """The clients with a role, in order of name."""
        holders = select(client_roles.c.client_id).where(client_roles.c.role == role.value)
        found = self._connection.execute(
            select(clients)
            .where(or_(clients.c.id.in_(holders), clients.c.role == role.value))
            .order_by(clients.c.name)
        )
        return [client for client in self._records(found.all()) if role in client.roles]

    def of_rows(self, client_ids: Sequence[int]) -> list[ClientRecord]:
        """The clients with these row ids, of at most a chunk; those that are gone are left out."""
        return self._records(
            self._connection.execute(select(clients).where(clients.c.id.in_(client_ids))).all()
        )

    def remove(self, name: str) -> None:
        """Remove a client with its credentials, grants, permits and trust in CAs, and CAs left without a client.

        Raises NotFound, Conflict if it has keys in the vault.
        """
        client = self.row(name)
        client_id = client.id
        vault.leave(self._connection, self._order, client)
        wait_for_uses(self._connection, self._order, limited_grants.c.client_id == client_id)
        self._connection.execute(delete(clients).where(clients.c.id == client_id))
        still_trusted = select(ca_clients.c.ca_fingerprint)
        self._connection.execute(delete(cas).where(cas.c.fingerprint.not_in(still_trusted)))

    def rename(self, name: str, new_name: str, now: datetime | None = None) -> None:
        """Rename a client; credentials, grants, permits, keys that it owns and trust in CAs stay with it.

        Raises NotFound, BadRequest for an invalid new name, Conflict if it is taken, or if the client has something in the
        vault.
        """
        client = self.row(name)
        client_id = client.id
        _check_client_name("new_name", new_name)
        self._check_is_free(new_name)
        vault.keep_name(self._connection, self._order, client)
        renamed = update(clients).where(clients.c.id == client_id)
        self._connection.execute(renamed.values(name=new_name, named_at=now or datetime.now(UTC)))
        keep_name(self._connection, new_name, grant_uses.c.client_id == client_id)

    def _check_is_free(self, name: str) -> None:
        if self._connection.scalar(select(clients.c.id).where(clients.c.name == name)) is not None:
            raise Conflict(f"a client named {name} exists already; choose another name")

    def _records(self, rows: Sequence[Row[Any]]) -> list[ClientRecord]:
        ids = [each.id for each in rows]
        found = self._credentials(select(credentials).where(credentials.c.client_id.in_(ids)))
        roles = self._roles(client_roles.c.client_id.in_(ids))
        return [_record(each, roles, found) for each in rows]

    def _roles(self, *which: ColumnElement[bool]) -> dict[int, list[str]]:
        """The names of roles by client, those of later releases too."""
        found: dict[int, list[str]] = defaultdict(list)
        for each in self._connection.execute(select(client_roles).where(*which)):
            found[each.client_id].append(each.role)
        return found

    def _credentials(self, query: Select[Any]) -> dict[int, list[CredentialRecord]]:
        found: dict[int, list[CredentialRecord]] = defaultdict(list)
        for each in self._connection.execute(query.order_by(credentials.c.fingerprint)):
            found[each.client_id].append(CredentialRecord(each.fingerprint, each.public_key))
        return found


def _owned_by(client_id: int) -> Select[Any]:
    return select(key_history.c.id).where(key_history.c.owner_id == client_id).limit(1)


def check_fingerprint(fingerprint: str) -> None:
    """Raises BadRequest for a fingerprint that is not in OpenSSH's format, which could never match a key."""
    kind, _, value = fingerprint.partition(":")
    if kind != "SHA256" or len(value) != 43 or not value.isascii():
        raise BadRequest(
            "public_key: its fingerprint must be SHA256: and 43 characters, as ssh-keygen -l prints it"
        )


def _check_client_name(field: str, name: str) -> None:
    check_name(field, name)
    if name == ENROLMENT_USER:
        raise BadRequest(f"{field}: {name} is reserved for enrolment; choose another name")


def _record(
    client: Row[Any], roles: Mapping[int, list[str]], found: dict[int, list[CredentialRecord]]
) -> ClientRecord:
    return ClientRecord(
        client.name, _roles(client, roles), tuple(found[client.id]), client.created_at, client.id
    )


def _roles(client: Row[Any], found: Mapping[int, list[str]]) -> frozenset[Role]:
    """The roles of a client that this release knows.

    A client without rows of roles was added by a daemon of a release with one role per client, which is in `clients.role`.
    """
    names = found.get(client.id) or [client.role]
    return frozenset(role for role in Role if role.value in names)


def _old_role(roles: frozenset[Role]) -> str:
    """What a client with these roles is to releases with one role per client, which would end at any other one.

    If it has none of theirs, it is what may do least there: a front end, which has no grants.
    """
    old = in_order(roles & _OLD_ROLES)
    return (old[0] if old else Role.FRONT_END).value


def _words(roles: frozenset[Role]) -> str:
    names = [role.value for role in in_order(roles)]
    return f"the role{'s' * (len(names) > 1)} {', '.join(names)}"

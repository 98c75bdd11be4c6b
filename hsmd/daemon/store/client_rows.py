"""Rows of clients and their credentials, within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from hsmd.daemon.store.names import check_after, check_name, searchable, unknown
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, Page
from hsmd.daemon.store.tables import ca_clients, cas, clients, credentials
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.enrolment import USER as ENROLMENT_USER
from hsmd.protocol.roles import Role


class Clients:
    """The clients and the public keys that identify them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, name: str, role: Role, now: datetime, credential: CredentialRecord | None = None) -> None:
        """Add a client, with its first credential if there is one.

        Raises BadRequest for an invalid name, Conflict if the name or the credential is taken.
        """
        _check_client_name("name", name)
        self._check_is_free(name)
        self._connection.execute(insert(clients).values(name=name, role=role.value, created_at=now))
        if credential is not None:
            self.add_credential(name, credential)

    def ensure(self, name: str, role: Role, now: datetime) -> None:
        """Add a client unless it exists. Raises BadRequest for an invalid name, Conflict for another role."""
        found = self._connection.scalar(select(clients.c.role).where(clients.c.name == searchable(name)))
        if found is None:
            self.add(name, role, now)
        elif found != role.value:
            raise Conflict(f"role: {name!r} is a client with the role {found}; a client keeps its role")

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
        found = self._credentials(select(credentials))
        rows = self._connection.execute(select(clients).order_by(clients.c.name))
        return [_record(each, found) for each in rows]

    def remove(self, name: str) -> None:
        """Remove a client with its credentials, grants and trust in CAs, and CAs left without a client.

        Raises NotFound.
        """
        removed = self._connection.execute(delete(clients).where(clients.c.name == searchable(name)))
        if removed.rowcount == 0:
            raise unknown("client", name)
        still_trusted = select(ca_clients.c.ca_fingerprint)
        self._connection.execute(delete(cas).where(cas.c.fingerprint.not_in(still_trusted)))

    def rename(self, name: str, new_name: str) -> None:
        """Rename a client; credentials, grants and trust in CAs stay with it.

        Raises NotFound, BadRequest for an invalid new name, Conflict if it is taken.
        """
        client_id = self.find_id(name)
        _check_client_name("new_name", new_name)
        self._check_is_free(new_name)
        self._connection.execute(update(clients).where(clients.c.id == client_id).values(name=new_name))

    def _check_is_free(self, name: str) -> None:
        if self._connection.scalar(select(clients.c.id).where(clients.c.name == name)) is not None:
            raise Conflict(f"a client named {name} exists already; choose another name")

    def _records(self, rows: Sequence[Row[Any]]) -> list[ClientRecord]:
        ids = [each.id for each in rows]
        found = self._credentials(select(credentials).where(credentials.c.client_id.in_(ids)))
        return [_record(each, found) for each in rows]

    def _credentials(self, query: Select[Any]) -> dict[int, list[CredentialRecord]]:
        found: dict[int, list[CredentialRecord]] = defaultdict(list)
        for each in self._connection.execute(query.order_by(credentials.c.fingerprint)):
            found[each.client_id].append(CredentialRecord(each.fingerprint, each.public_key))
        return found


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


def _record(client: Row[Any], found: dict[int, list[CredentialRecord]]) -> ClientRecord:
    return ClientRecord(client.name, Role(client.role), tuple(found[client.id]), client.created_at)

"""Rows of clients, credentials and trusted CAs; each function runs inside its caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from hsmd.daemon.store.records import CaRecord, ClientRecord, CredentialRecord, check_name
from hsmd.daemon.store.tables import ca_clients, cas, clients, credentials
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.enrolment import USER as ENROLMENT_USER
from hsmd.protocol.roles import Role


def add(connection: Connection, name: str, role: Role, now: datetime) -> None:
    """Raises BadRequest for a name that no client may have, Conflict if it is taken."""
    _check_name("name", name)
    if connection.scalar(select(clients.c.id).where(clients.c.name == name)) is not None:
        raise Conflict(f"a client named {name} exists already; choose another name")
    connection.execute(insert(clients).values(name=name, role=role.value, created_at=now))


def add_unless_there(connection: Connection, name: str, role: Role, now: datetime) -> None:
    """Raises BadRequest for a name that no client may have, Conflict if the client has another role."""
    found = connection.scalar(select(clients.c.role).where(clients.c.name == name))
    if found is None:
        add(connection, name, role, now)
    elif found != role.value:
        raise Conflict(f"role: {name!r} is a client with the role {found}; a client keeps its role")


def add_credential(connection: Connection, client: str, credential: CredentialRecord) -> None:
    """Raises NotFound for an unknown client, Conflict if a client comes with this key already."""
    check_fingerprint(credential.fingerprint)
    client_id = find_id(connection, client)
    owner = connection.scalar(
        select(clients.c.name).join(credentials).where(credentials.c.fingerprint == credential.fingerprint)
    )
    if owner is not None:
        raise Conflict(f"the client {owner} comes with this key already; a key identifies one client only")
    connection.execute(
        insert(credentials).values(
            fingerprint=credential.fingerprint, client_id=client_id, public_key=credential.public_key
        )
    )


def find_id(connection: Connection, name: str) -> int:
    """The row id of a client. Raises NotFound."""
    client_id: int = row(connection, name).id
    return client_id


def row(connection: Connection, name: str) -> Row[Any]:
    """The row of a client. Raises NotFound."""
    found = connection.execute(select(clients).where(clients.c.name == name)).one_or_none()
    if found is None:
        raise NotFound("no client of that name")
    return found


def record(connection: Connection, name: str) -> ClientRecord:
    """Raises NotFound."""
    return _records(connection, [row(connection, name)])[0]


def page(connection: Connection, after: str, count: int) -> list[ClientRecord]:
    """At most `count` clients in the order of their names."""
    query = select(clients).where(clients.c.name > after).order_by(clients.c.name).limit(count)
    return _records(connection, connection.execute(query).all())


def load_all(connection: Connection) -> list[ClientRecord]:
    """All clients in the order of their names."""
    found = _collect_credentials(connection, select(credentials))
    return [_record(each, found) for each in connection.execute(select(clients).order_by(clients.c.name))]


def remove(connection: Connection, name: str) -> None:
    """Credentials, grants and trust in CAs go with it; so does a CA left with no client. Raises NotFound."""
    if connection.execute(delete(clients).where(clients.c.name == name)).rowcount == 0:
        raise NotFound("no client of that name")
    connection.execute(delete(cas).where(cas.c.fingerprint.not_in(select(ca_clients.c.ca_fingerprint))))


def rename(connection: Connection, name: str, new_name: str) -> None:
    """Credentials, grants and trust in CAs stay. Raises NotFound, BadRequest, Conflict if the new name is taken."""
    client_id = find_id(connection, name)
    _check_name("new_name", new_name)
    if connection.scalar(select(clients.c.id).where(clients.c.name == new_name)) is not None:
        raise Conflict(f"a client named {new_name} exists already; choose another name")
    connection.execute(update(clients).where(clients.c.id == client_id).values(name=new_name))


def distrust_ca(connection: Connection, fingerprint: str) -> None:
    """Raises NotFound."""
    if connection.execute(delete(cas).where(cas.c.fingerprint == fingerprint)).rowcount == 0:
        raise NotFound("no CA with that key is trusted")


def trust_ca(
    connection: Connection, fingerprint: str, public_key: str, names: Collection[str], max_lifetime_s: int
) -> None:
    """Trust the CA for exactly these clients from now on; for none means not at all. Raises NotFound."""
    check_fingerprint(fingerprint)
    client_ids = [_known_id(connection, name) for name in sorted(set(names))]
    connection.execute(delete(cas).where(cas.c.fingerprint == fingerprint))
    if client_ids:
        connection.execute(
            insert(cas).values(fingerprint=fingerprint, public_key=public_key, max_lifetime_s=max_lifetime_s)
        )
        rows = [{"ca_fingerprint": fingerprint, "client_id": client_id} for client_id in client_ids]
        connection.execute(insert(ca_clients), rows)


def load_cas(connection: Connection) -> list[CaRecord]:
    """All CAs in the order of their fingerprints."""
    trusted: dict[str, set[str]] = defaultdict(set)
    query = select(ca_clients.c.ca_fingerprint, clients.c.name).join(
        clients, clients.c.id == ca_clients.c.client_id
    )
    for fingerprint, name in connection.execute(query):
        trusted[fingerprint].add(name)
    rows = connection.execute(select(cas).order_by(cas.c.fingerprint))
    return [
        CaRecord(each.fingerprint, each.public_key, frozenset(trusted[each.fingerprint]), each.max_lifetime_s)
        for each in rows
    ]


def _check_name(field: str, name: str) -> None:
    check_name(field, name)
    if name == ENROLMENT_USER:
        raise BadRequest(f"{field}: as {name} come those who are no clients yet; choose another name")


def check_fingerprint(fingerprint: str) -> None:
    """Raises BadRequest unless the fingerprint looks as OpenSSH prints it: nothing else could ever match."""
    kind, _, value = fingerprint.partition(":")
    if kind != "SHA256" or len(value) != 43 or not value.isascii():
        raise BadRequest(
            "public_key: its fingerprint must be SHA256: and 43 characters, as ssh-keygen -l prints it"
        )


def _known_id(connection: Connection, name: str) -> int:
    client_id: int | None = connection.scalar(select(clients.c.id).where(clients.c.name == name))
    if client_id is None:
        raise NotFound("clients: one of the names is unknown; add that client first")
    return client_id


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[ClientRecord]:
    ids = [each.id for each in rows]
    found = _collect_credentials(connection, select(credentials).where(credentials.c.client_id.in_(ids)))
    return [_record(each, found) for each in rows]


def _collect_credentials(connection: Connection, query: Select[Any]) -> dict[int, list[CredentialRecord]]:
    found: dict[int, list[CredentialRecord]] = defaultdict(list)
    for each in connection.execute(query.order_by(credentials.c.fingerprint)):
        found[each.client_id].append(CredentialRecord(each.fingerprint, each.public_key))
    return found


def _record(client: Row[Any], found: dict[int, list[CredentialRecord]]) -> ClientRecord:
    return ClientRecord(client.name, Role(client.role), tuple(found[client.id]), client.created_at)

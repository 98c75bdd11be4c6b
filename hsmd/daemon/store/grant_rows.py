"""Rows of grants, which hang on row ids, not names; each function runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, tuple_

from hsmd.daemon.store import client_rows, key_rows
from hsmd.daemon.store.records import GrantRecord
from hsmd.daemon.store.tables import clients, grants, keys
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, check_grantable


def add(connection: Connection, client: str, key: str, purposes: frozenset[Purpose]) -> GrantRecord:
    """Grant these purposes too; gives all that the client now has on the key.

    Raises NotFound (client, key), BadRequest (no front end; purposes outside the ceiling or not grantable).
    """
    client_row = client_rows.row(connection, client)
    key_record = key_rows.by_name(connection, key)
    if client_row.role != Role.FRONT_END.value:
        raise BadRequest(f"client: {client} is an {client_row.role}; only a front end can hold a grant")
    check_grantable(key_record.purposes, purposes)
    key_id = key_rows.find_id(connection, key)
    missing = purposes - _held(connection, client_row.id, key_id)
    if missing:
        rows = [
            {"client_id": client_row.id, "key_id": key_id, "purpose": int(each)} for each in sorted(missing)
        ]
        connection.execute(insert(grants), rows)
    return GrantRecord(client, key, key_record.digest, _held(connection, client_row.id, key_id))


def remove(connection: Connection, client: str, key: str, purposes: frozenset[Purpose]) -> bool:
    """Take these purposes back, all if none is named; whether there was anything to take. Raises NotFound."""
    client_id, key_id = client_rows.find_id(connection, client), key_rows.find_id(connection, key)
    statement = delete(grants).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
    if purposes:
        statement = statement.where(grants.c.purpose.in_(sorted(int(each) for each in purposes)))
    return connection.execute(statement).rowcount > 0


def page(
    connection: Connection, client: str, key: str, after: tuple[str, str], count: int
) -> list[GrantRecord]:
    """At most `count` grants in the order of client and key; an empty client or key stands for all."""
    pairs = select(clients.c.name.label("client"), keys.c.name.label("key")).select_from(_joined()).distinct()
    pairs = pairs.where(tuple_(clients.c.name, keys.c.name) > tuple_(*after))
    if client:
        pairs = pairs.where(clients.c.name == client)
    if key:
        pairs = pairs.where(keys.c.name == key)
    chosen = pairs.order_by(clients.c.name, keys.c.name).limit(count).subquery()
    query = _rows().join(chosen, (chosen.c.client == clients.c.name) & (chosen.c.key == keys.c.name))
    return _grouped(connection.execute(_ordered(query)))


def load_all(connection: Connection) -> list[GrantRecord]:
    """All grants in the order of client and key."""
    return _grouped(connection.execute(_ordered(_rows())))


def _held(connection: Connection, client_id: int, key_id: int) -> frozenset[Purpose]:
    query = select(grants.c.purpose).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
    return _known(connection.scalars(query))


def _joined() -> Any:
    return grants.join(clients, clients.c.id == grants.c.client_id).join(keys, keys.c.id == grants.c.key_id)


def _rows() -> Select[Any]:
    return select(clients.c.name, keys.c.name, keys.c.digest, grants.c.purpose).select_from(_joined())


def _ordered(query: Select[Any]) -> Select[Any]:
    return query.order_by(clients.c.name, keys.c.name, grants.c.purpose)


def _grouped(rows: Iterable[Any]) -> list[GrantRecord]:
    records = []
    for (client, key, digest), group in groupby(rows, key=lambda each: (each[0], each[1], bytes(each[2]))):
        records.append(GrantRecord(client, key, digest, _known(each[3] for each in group)))
    return records


def _known(codes: Iterable[int]) -> frozenset[Purpose]:
    found = (key_rows.known_purpose(code) for code in codes)
    return frozenset(purpose for purpose in found if purpose is not None)

"""Rows of grants, which refer to row ids rather than names, within one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, tuple_

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.key_rows import Keys, known_purpose
from hsmd.daemon.store.names import is_name
from hsmd.daemon.store.records import GrantRecord, Page
from hsmd.daemon.store.tables import clients, grants, keys
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, check_grantable


class Grants:
    """The purposes for which clients may use keys."""

    def __init__(self, connection: Connection, client_rows: Clients, key_rows: Keys) -> None:
        self._connection = connection
        self._clients = client_rows
        self._keys = key_rows

    def add(self, client: str, key: str, purposes: Iterable[Purpose]) -> GrantRecord:
        """Grant these purposes in addition; return all that the client now has on the key.

        Raises NotFound (client, key), BadRequest (not a front end; purposes outside the ceiling or not grantable).
        """
        wanted = frozenset(purposes)
        client_row = self._clients.row(client)
        key_record = self._keys.get(key)
        if Role.FRONT_END not in self._clients.roles_of(client_row):
            raise BadRequest(
                f"client: {client!r} is not a front end, and only a front end can hold a grant; "
                f"give it the role: `hsmd client role add {client} front-end`"
            )
        check_grantable(key_record.purposes, wanted)
        key_id = self._keys.find_id(key)
        missing = sorted(wanted - self._held(client_row.id, key_id))
        if missing:
            rows = [
                {"client_id": client_row.id, "key_id": key_id, "purpose": int(purpose)} for purpose in missing
            ]
            self._connection.execute(insert(grants), rows)
        return GrantRecord(client, key, key_record.digest, self._held(client_row.id, key_id))

    def remove(self, client: str, key: str, purposes: Iterable[Purpose] = ()) -> bool:
        """Remove these purposes, or all if none is named; return whether any was granted. Raises NotFound."""
        client_id, key_id = self._clients.find_id(client), self._keys.find_id(key)
        statement = delete(grants).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
        if codes := sorted(int(purpose) for purpose in purposes):
            statement = statement.where(grants.c.purpose.in_(codes))
        return self._connection.execute(statement).rowcount > 0

    def page(self, client: str, key: str, after: str, limit: int) -> Page[GrantRecord]:
        """At most `limit` grants in order of client and key; of one client or key, or of all ("").

        `after` is "client/key" of the last grant of the previous page, "" for the first page. Raises BadRequest if
        it is anything else, NotFound for an unknown client or key.
        """
        pairs = select(clients.c.name.label("client"), keys.c.name.label("key")).select_from(_joined())
        pairs = pairs.distinct().where(tuple_(clients.c.name, keys.c.name) > tuple_(*_position(after)))
        if client:
            pairs = pairs.where(clients.c.id == self._clients.find_id(client))
        if key:
            pairs = pairs.where(keys.c.id == self._keys.find_id(key))
        chosen = pairs.order_by(clients.c.name, keys.c.name).limit(limit + 1).subquery()
        query = _rows().join(chosen, (chosen.c.client == clients.c.name) & (chosen.c.key == keys.c.name))
        return Page.cut(_grouped(self._connection.execute(_ordered(query))), limit)

    def all(self) -> list[GrantRecord]:
        """All grants in order of client and key."""
        return _grouped(self._connection.execute(_ordered(_rows())))

    def _held(self, client_id: int, key_id: int) -> frozenset[Purpose]:
        query = select(grants.c.purpose).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
        return _known(self._connection.scalars(query))


def _position(after: str) -> tuple[str, str]:
    client, separator, key = after.partition("/")
    if after and not (separator and is_name(client) and is_name(key)):
        raise BadRequest("after: must be client/key of the last grant of the previous page, or empty")
    return client, key


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
    found = (known_purpose(code) for code in codes)
    return frozenset(purpose for purpose in found if purpose is not None)

"""Rows of grants without limits, which refer to row ids rather than names, within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, delete, insert, select, tuple_, union

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.columns import in_pairs
from hsmd.daemon.store.key_rows import Keys, known_purpose
from hsmd.daemon.store.limited_grant_rows import LimitedGrants, needs_names
from hsmd.daemon.store.names import pair_after
from hsmd.daemon.store.records import GrantRecord, Page
from hsmd.daemon.store.tables import clients, grants, keys, limited_grants
from hsmd.errors import Conflict
from hsmd.purposes import WITH_ALLOWED_NAMES, Purpose, check_grantable, labels

_CLIENTS = 50
"""Clients whose grants are looked at together for a page of all grants."""


class Grants:
    """The purposes for which clients may use keys."""

    def __init__(
        self, connection: Connection, client_rows: Clients, key_rows: Keys, limited: LimitedGrants
    ) -> None:
        self._connection = connection
        self._clients = client_rows
        self._keys = key_rows
        self._limited = limited

    def add(self, client: str, key: str, purposes: Iterable[Purpose]) -> GrantRecord:
        """Grant these purposes in addition; return all that the client now has on the key.

        Raises NotFound (client, key), BadRequest (not a front end; purposes outside the ceiling or not grantable).
        """
        wanted = frozenset(purposes)
        client_row = self._clients.row(client)
        key_record = self._keys.get(key)
        self._clients.check_is_front_end(client_row)
        check_grantable(key_record.purposes, wanted)
        if named := wanted & WITH_ALLOWED_NAMES:
            raise needs_names(named)
        key_id = self._keys.find_id(key)
        self._check_no_limited(client_row.id, client, key_id, key, wanted)
        missing = sorted(wanted - self._held(client_row.id, key_id))
        if missing:
            rows = [
                {"client_id": client_row.id, "key_id": key_id, "purpose": int(purpose)} for purpose in missing
            ]
            self._connection.execute(insert(grants), rows)
        return GrantRecord(client, key, key_record.digest, self._held(client_row.id, key_id))

    def remove(self, client: str, key: str, purposes: Iterable[Purpose] = ()) -> bool:
        """Remove these purposes, limited or not, or all if none is named; return whether any was granted.

        Raises NotFound.
        """
        client_id, key_id = self._clients.find_id(client), self._keys.find_id(key)
        codes = sorted(int(purpose) for purpose in purposes)
        statement = delete(grants).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
        if codes:
            statement = statement.where(grants.c.purpose.in_(codes))
        removed = self._connection.execute(statement).rowcount > 0
        return self._limited.remove(client_id, key_id, codes) or removed

    def page(self, client: str, key: str, after: str, limit: int) -> Page[GrantRecord]:
        """At most `limit` grants in order of client and key; of one client or key, or of all ("").

        `after` is "client/key" of the last grant of the previous page, "" for the first page. Raises BadRequest if
        it is anything else, NotFound for an unknown client or key.
        """
        client_id = self._clients.find_id(client) if client else None
        key_id = self._keys.find_id(key) if key else None
        position = pair_after(after, "client/key of the last grant")
        if client_id is None and key_id is None:
            rows: Sequence[Row[Any]] = self._pairs_of_all(position, limit + 1)
        else:
            rows = self._pairs(client_id, key_id, position, limit + 1)
        return Page.cut(self._of_pairs(rows), limit)

    def _pairs_of_all(self, position: tuple[str, str], limit: int) -> list[Row[Any]]:
        """The next pairs of all clients; only the grants of a few clients, in order of their names, are looked at."""
        found: list[Row[Any]] = []
        query = select(clients.c.id, clients.c.name).order_by(clients.c.name).limit(_CLIENTS)
        some = self._connection.execute(query.where(clients.c.name >= position[0])).all()
        while some and len(found) < limit:
            found += self._pairs([row.id for row in some], None, position, limit - len(found))
            some = self._connection.execute(query.where(clients.c.name > some[-1].name)).all()
        return found

    def _pairs(
        self, client_ids: int | list[int] | None, key_id: int | None, position: tuple[str, str], limit: int
    ) -> Sequence[Row[Any]]:
        """The next pairs of these clients (None: of all) and this key (None: of all)."""
        kinds = (_pairs_in(kind, client_ids, key_id, position) for kind in (grants, limited_grants))
        pairs = union(*kinds).subquery()
        return self._connection.execute(
            select(pairs).order_by(pairs.c.client, pairs.c.key).limit(limit)
        ).all()

    def get(self, client: str, key: str) -> GrantRecord:
        """All that a client has on a key, limited or not. Raises NotFound for an unknown client or key."""
        client_id, record = self._clients.find_id(client), self._keys.get(key)
        held = self._held(client_id, self._keys.find_id(key))
        return GrantRecord(client, key, record.digest, held, tuple(self._limited.of(client, key)))

    def all(self) -> list[GrantRecord]:
        """All grants without limits in order of client and key."""
        return _grouped(self._connection.execute(_ordered(_rows())))

    def _of_pairs(self, pairs: Sequence[Row[Any]]) -> list[GrantRecord]:
        """The grants of these pairs (client, key, digest, client_id, key_id), limited or not, in the same order."""
        ids = [(pair.client_id, pair.key_id) for pair in pairs]
        purposes: dict[tuple[int, int], set[int]] = defaultdict(set)
        for row in self._connection.execute(
            select(grants).where(in_pairs(grants.c.client_id, grants.c.key_id, ids))
        ):
            purposes[row.client_id, row.key_id].add(row.purpose)
        limited = self._limited.of_pairs(ids)
        return [
            GrantRecord(
                pair.client, pair.key, bytes(pair.digest), _known(purposes[each]), tuple(limited[each])
            )
            for pair, each in zip(pairs, ids, strict=True)
        ]

    def _check_no_limited(
        self, client_id: int, client: str, key_id: int, key: str, wanted: frozenset[Purpose]
    ) -> None:
        query = select(limited_grants.c.purpose).filter_by(client_id=client_id, key_id=key_id)
        if held := wanted & _known(self._connection.scalars(query)):
            raise Conflict(
                f"{client} may use {key} for {', '.join(labels(held))} within limits already; give new limits, or "
                f"remove that grant first (hsmd grant remove) for one without limits"
            )

    def _held(self, client_id: int, key_id: int) -> frozenset[Purpose]:
        query = select(grants.c.purpose).where(grants.c.client_id == client_id, grants.c.key_id == key_id)
        return _known(self._connection.scalars(query))


def _pairs_in(
    kind: Table, client_ids: int | list[int] | None, key_id: int | None, position: tuple[str, str]
) -> Select[Any]:
    query = (
        select(
            clients.c.name.label("client"),
            keys.c.name.label("key"),
            keys.c.digest,
            kind.c.client_id,
            kind.c.key_id,
        )
        .join(clients, clients.c.id == kind.c.client_id)
        .join(keys, keys.c.id == kind.c.key_id)
        .where(tuple_(clients.c.name, keys.c.name) > tuple_(*position))
    )
    if isinstance(client_ids, int):
        query = query.where(kind.c.client_id == client_ids)
    elif client_ids is not None:
        query = query.where(kind.c.client_id.in_(client_ids))
    return query if key_id is None else query.where(kind.c.key_id == key_id)


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

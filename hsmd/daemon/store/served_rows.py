"""Rows of the certificates that front ends serve, as they report them; within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, select, union

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.columns import UtcDateTime, chunks, upserts
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.names import check_after
from hsmd.daemon.store.records import Page, ServedRecord
from hsmd.daemon.store.tables import (
    clients,
    grants,
    key_replacements,
    keys,
    limited_grants,
    served_certificates,
)

_REPORTED = upserts(
    served_certificates,
    lambda statement: statement.on_conflict_do_update(
        index_elements=["client_id", "key_id"],
        set_={"certificate": statement.excluded.certificate, "since": statement.excluded.since},
    ),
)


class ServedCertificates:
    """What front ends report. It decides nothing about the use of keys, so a report makes no new version of the contents."""

    def __init__(self, connection: Connection, client_rows: Clients, key_rows: Keys) -> None:
        self._connection = connection
        self._clients = client_rows
        self._keys = key_rows

    def differing(self, client: str, served: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of these certificates (SHA-256 by the name of the key) that are not what the client reported last.

        Keys that are unknown, or on which the client has no grant, are left out. Raises NotFound for an unknown client.
        """
        client_id = self._clients.find_id(client)
        return {
            row.name: served[row.name]
            for row in self._rows(client_id, served)
            if row.certificate is None or bytes(row.certificate) != served[row.name]
        }

    def report(self, client: str, served: Mapping[str, bytes], now: datetime) -> bool:
        """Note what a client serves since now, where that differs; return whether it does anywhere. Raises NotFound."""
        client_id = self._clients.find_id(client)
        differing = self.differing(client, served)
        rows = [
            {
                "client_id": client_id,
                "key_id": row.id,
                "certificate": differing[row.name],
                "since": now,
            }
            for row in self._rows(client_id, differing)
        ]
        kept = self._lock(client_id, [row["key_id"] for row in rows]) if rows else frozenset()
        rows = sorted((row for row in rows if row["key_id"] in kept), key=lambda row: row["key_id"])
        if rows:
            self._connection.execute(_REPORTED[self._connection.dialect.name], rows)
        return bool(rows)

    def _lock(self, client_id: int, key_ids: Collection[int]) -> frozenset[int]:
        """Keep client and keys as they are, before any row of this table is locked; return the keys that are still there.

        What removes or renames them locks their rows first, and then those that refer to them. A report that came to a new row
        after one that is only changed would wait for such a transaction in a circle.
        """
        found = [
            self._connection.scalars(
                select(table.c.id)
                .where(table.c.id.in_(ids))
                .order_by(table.c.id)
                .with_for_update(read=True, key_share=True)
            ).all()
            for table, ids in ((clients, [client_id]), (keys, key_ids))
        ]
        return frozenset(found[1]) if found[0] else frozenset()

    def of_key(self, key: str, after: str, limit: int) -> Page[ServedRecord]:
        """The clients that have a grant on a key, in order of their names after `after`, with what they reported.

        While a client has reported nothing of a key that has taken over a name, what it reported of the key before counts.
        Raises NotFound for an unknown key, BadRequest for an invalid `after`.
        """
        key_id = self._keys.find_id(key)
        other = union(
            select(key_replacements.c.key_id).where(key_replacements.c.successor_id == key_id),
            select(key_replacements.c.successor_id).where(key_replacements.c.key_id == key_id),
        )
        now, past = (served_certificates.alias(name) for name in ("now", "past"))
        query = (
            select(
                clients.c.name,
                func.coalesce(now.c.certificate, past.c.certificate).label("certificate"),
                func.coalesce(now.c.since, past.c.since, type_=UtcDateTime).label("since"),
            )
            .outerjoin(now, and_(now.c.client_id == clients.c.id, now.c.key_id == key_id))
            .outerjoin(past, and_(past.c.client_id == clients.c.id, past.c.key_id.in_(other)))
            .where(clients.c.id.in_(_granted_on(key_id)), clients.c.name > check_after(after))
            .order_by(clients.c.name)
            .limit(limit + 1)
        )
        found = [
            ServedRecord(row.name, bytes(row.certificate or b""), row.since)
            for row in self._connection.execute(query)
        ]
        return Page.cut(found, limit)

    def forget_older(self, key_ids: Collection[int]) -> None:
        """Of clients that reported several of these keys, which had the same name one after the other, keep the newest report."""
        newer = served_certificates.alias("newer")
        older = exists().where(
            newer.c.client_id == served_certificates.c.client_id,
            newer.c.key_id.in_(key_ids),
            newer.c.since > served_certificates.c.since,
        )
        self._connection.execute(
            delete(served_certificates).where(served_certificates.c.key_id.in_(key_ids), older)
        )

    def _rows(self, client_id: int, served: Mapping[str, bytes]) -> list[Any]:
        """(id, name, certificate that was reported or None) of those of these keys on which the client has a grant."""
        reported = and_(
            served_certificates.c.key_id == keys.c.id,
            served_certificates.c.client_id == bindparam("client", client_id),
        )
        query = select(keys.c.id, keys.c.name, served_certificates.c.certificate).outerjoin(
            served_certificates, reported
        )
        query = query.where(keys.c.id.in_(_granted_to(client_id)))
        found: list[Any] = []
        names: Sequence[str] = list(served)
        for chunk in chunks(names):
            found += self._connection.execute(query.where(keys.c.name.in_(chunk))).all()
        return found


def _granted_on(key_id: int) -> Any:
    return union(
        *(select(table.c.client_id).where(table.c.key_id == key_id) for table in (grants, limited_grants))
    )


def _granted_to(client_id: int) -> Any:
    return union(
        *(select(table.c.key_id).where(table.c.client_id == client_id) for table in (grants, limited_grants))
    )

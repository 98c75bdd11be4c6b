"""Rows of which clients get which certificates from an authority, within one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select

from hsmd.daemon.store.authority_rows import Authorities
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.names import check_after, searchable
from hsmd.daemon.store.records import Page, PermitRecord, PermitUse
from hsmd.daemon.store.tables import (
    authorities,
    clients,
    issued_certificates as issued,
    keys,
    node_permits as permits,
)
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role

_PERMITS = (
    select(permits, clients.c.name.label("client"), keys.c.name.label("authority"))
    .join(clients, clients.c.id == permits.c.client_id)
    .join(keys, keys.c.id == permits.c.authority_id)
)


class Permits:
    """What certificates clients with the role `node` get; at most one row for each authority and client."""

    def __init__(
        self, connection: Connection, authority_rows: Authorities, client_rows: Clients, order: LockOrder
    ) -> None:
        self._connection = connection
        self._authorities = authority_rows
        self._clients = client_rows
        self._order = order

    def put(self, permit: PermitRecord) -> bool:
        """Add a permit, in the place of an earlier one; return whether that is a change.

        Raises NotFound (authority, client), BadRequest for a client without the role `node`.
        """
        authority_id = self._authorities.find_id(permit.authority)
        client = self._clients.row(permit.client)
        if Role.NODE not in self._clients.roles_of(client):
            raise BadRequest(
                f"client: {permit.client!r} is not a node, and only a node can be issued certificates; add the role: "
                f"hsmd client role add {permit.client} node"
            )
        if self.find(permit.authority, permit.client) == permit:
            return False
        same = (permits.c.authority_id == authority_id) & (permits.c.client_id == client.id)
        self._connection.execute(delete(permits).where(same))
        row = {"authority_id": authority_id, "client_id": client.id, **_columns(permit)}
        self._connection.execute(insert(permits).values(row))
        return True

    def remove(self, authority: str, client: str) -> bool:
        """Remove a permit; return whether there was one. Raises NotFound for an unknown authority or client."""
        same = (permits.c.authority_id == self._authorities.find_id(authority)) & (
            permits.c.client_id == self._clients.find_id(client)
        )
        return self._connection.execute(delete(permits).where(same)).rowcount > 0

    def find(self, authority: str, client: str) -> PermitRecord | None:
        """The permit of a client; None if it has none, also for an unknown authority or client: one statement asks all."""
        row = self._connection.execute(_named(authority, client)).one_or_none()
        return None if row is None else _record(row)

    def lock(self, authority: str, client: str) -> PermitRecord | None:
        """As `find`, and other transactions that lock it wait for the end of this one.

        The authority's row is locked first, as far as a certificate that is issued then locks it: who destroys its key waits,
        and does not have one of the two rows while this transaction has the other.
        """
        self._order.take(Lock.NODE_PERMIT, f"{authority} {client}")
        held = select(authorities.c.key_id).join(keys, keys.c.id == authorities.c.key_id)
        held = held.where(keys.c.name == searchable(authority))
        self._connection.execute(held.with_for_update(read=True, key_share=True, of=authorities)).all()
        row = self._connection.execute(
            _named(authority, client).with_for_update(of=permits, key_share=True)
        ).one_or_none()
        return None if row is None else _record(row)

    def page(self, authority: str, after: str, limit: int) -> Page[PermitRecord]:
        """At most `limit` permits of an authority in order of the client's name, following `after`.

        Raises NotFound for an unknown authority, BadRequest for an invalid `after`.
        """
        query = _PERMITS.where(
            permits.c.authority_id == self._authorities.find_id(authority),
            clients.c.name > check_after(after),
        )
        rows = self._connection.execute(query.order_by(clients.c.name).limit(limit + 1)).all()
        return Page.cut([_record(row) for row in rows], limit)

    def use(self, authority: str, client: str, now: datetime) -> PermitUse:
        """The certificates of an authority that a client has got and that have not ended; those that were not signed count.

        Raises NotFound for an unknown authority or client.
        """
        query = select(func.count(), func.min(issued.c.not_after), func.max(issued.c.not_after)).where(
            issued.c.authority_id == self._authorities.find_id(authority),
            issued.c.client_id == self._clients.find_id(client),
            issued.c.not_after > now,
        )
        count, first, last = self._connection.execute(query).one()
        return PermitUse(count, first, last)


def _named(authority: str, client: str) -> Any:
    return _PERMITS.where(keys.c.name == searchable(authority), clients.c.name == searchable(client))


def _columns(permit: PermitRecord) -> dict[str, Any]:
    return {
        "profile": permit.profile,
        "common_name": permit.common_name,
        "dns_names": msgspec.json.encode(permit.dns_names).decode(),
        "ip_addresses": msgspec.json.encode(permit.ip_addresses).decode(),
        "emails": msgspec.json.encode(permit.emails).decode(),
        "term_s": permit.term_s,
        "since": permit.since,
    }


def _record(row: Row[Any]) -> PermitRecord:
    return PermitRecord(
        authority=row.authority,
        client=row.client,
        profile=row.profile,
        common_name=row.common_name,
        dns_names=tuple(msgspec.json.decode(row.dns_names)),
        ip_addresses=tuple(msgspec.json.decode(row.ip_addresses)),
        emails=tuple(msgspec.json.decode(row.emails)),
        term_s=row.term_s,
        since=row.since,
    )

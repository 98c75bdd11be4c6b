"""Rows of the OpenSSH CAs whose user certificates are accepted, within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from hsmd.daemon.store.client_rows import check_fingerprint
from hsmd.daemon.store.names import searchable, unknown
from hsmd.daemon.store.records import DAY_S, UserCaRecord
from hsmd.daemon.store.tables import ca_clients, cas, clients
from hsmd.errors import NotFound


class UserCas:
    """The CAs, each trusted for a set of clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def trust(
        self, fingerprint: str, public_key: str, names: Iterable[str], max_lifetime_s: int = DAY_S
    ) -> None:
        """Accept certificates of this CA for exactly these clients from now on; an empty list ends the trust.

        Certificates valid for more than `max_lifetime_s` in total are refused, unless that is 0.
        Raises NotFound if a client is unknown.
        """
        check_fingerprint(fingerprint)
        wanted = UserCaRecord(fingerprint, public_key, frozenset(names), max_lifetime_s)
        client_ids = [self._client_id(name) for name in sorted(wanted.clients)]
        if wanted in self.all():
            return
        self._connection.execute(delete(cas).where(cas.c.fingerprint == fingerprint))
        if client_ids:
            row = {"fingerprint": fingerprint, "public_key": public_key, "max_lifetime_s": max_lifetime_s}
            self._connection.execute(insert(cas).values(row))
            rows = [{"ca_fingerprint": fingerprint, "client_id": client_id} for client_id in client_ids]
            self._connection.execute(insert(ca_clients), rows)

    def distrust(self, fingerprint: str) -> None:
        """Stop accepting certificates of this CA. Raises NotFound."""
        if self._connection.execute(delete(cas).where(cas.c.fingerprint == fingerprint)).rowcount == 0:
            raise NotFound(f"no user CA with the key {fingerprint} is trusted; check the file")

    def all(self) -> list[UserCaRecord]:
        """All CAs in order of fingerprint."""
        trusted: dict[str, set[str]] = defaultdict(set)
        query = select(ca_clients.c.ca_fingerprint, clients.c.name).join(
            clients, clients.c.id == ca_clients.c.client_id
        )
        for fingerprint, name in self._connection.execute(query):
            trusted[fingerprint].add(name)
        rows = self._connection.execute(select(cas).order_by(cas.c.fingerprint))
        return [
            UserCaRecord(
                each.fingerprint, each.public_key, frozenset(trusted[each.fingerprint]), each.max_lifetime_s
            )
            for each in rows
        ]

    def _client_id(self, name: str) -> int:
        query = select(clients.c.id).where(clients.c.name == searchable(name))
        client_id: int | None = self._connection.scalar(query)
        if client_id is None:
            raise unknown("client", name)
        return client_id

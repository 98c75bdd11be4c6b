"""Rows of one-time enrolment tokens, within one transaction.

A token is found by its id, which is random too: without the id, its attempts cannot be used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hmac import compare_digest

from sqlalchemy import Connection, delete, insert, select, update

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, EnrolmentRecord
from hsmd.daemon.store.tables import clients, enrolments
from hsmd.errors import Conflict, NotFound
from hsmd.protocol.roles import Role, admitted

MAX_TRIES = 5


class Enrolments:
    """The enrolment tokens that have not been used."""

    def __init__(self, connection: Connection, client_rows: Clients) -> None:
        self._connection = connection
        self._clients = client_rows

    def add(self, enrolment: EnrolmentRecord, now: datetime) -> None:
        """Add a token, replacing earlier ones of the same client; remove expired tokens. Raises NotFound."""
        client_id = self._clients.find_id(enrolment.client)
        ended = (enrolments.c.expires_at <= now) | (enrolments.c.client_id == client_id)
        self._connection.execute(delete(enrolments).where(ended))
        row = {
            "id": enrolment.id,
            "client_id": client_id,
            "secret_sha256": enrolment.secret_sha256,
            "expires_at": enrolment.expires_at,
            "tries": 0,
        }
        self._connection.execute(insert(enrolments).values(row))

    def ends(self, names: Sequence[str], now: datetime) -> dict[str, datetime]:
        """When the valid tokens of these clients end, by client; without clients that have none."""
        query = (
            select(clients.c.name, enrolments.c.expires_at)
            .join(clients, clients.c.id == enrolments.c.client_id)
            .where(clients.c.name.in_(names), enrolments.c.expires_at > now, enrolments.c.tries < MAX_TRIES)
        )
        return {row.name: row.expires_at for row in self._connection.execute(query)}

    def check(
        self,
        enrolment_id: str,
        secret_sha256: bytes,
        now: datetime,
        at: frozenset[Role] = frozenset(Role),
    ) -> bool:
        """Whether a token is valid now and may be used at an address that admits the roles `at` (roles.admitted).

        Each call counts as an attempt, in the statement that finds the row. Peers without an identity cause these
        calls: run them in a transaction that does not change `version`.
        """
        statement = (
            update(enrolments)
            .where(
                enrolments.c.id == enrolment_id, enrolments.c.tries < MAX_TRIES, enrolments.c.expires_at > now
            )
            .values(tries=enrolments.c.tries + 1)
            .returning(enrolments.c.secret_sha256, enrolments.c.client_id)
        )
        found = self._connection.execute(statement).one_or_none()
        if found is None or not compare_digest(bytes(found.secret_sha256), secret_sha256):
            return False
        client = self._connection.execute(select(clients).where(clients.c.id == found.client_id)).one()
        return admitted(self._clients.roles_of(client), at)

    def use(
        self, enrolment_id: str, secret_sha256: bytes, credential: CredentialRecord, now: datetime
    ) -> ClientRecord:
        """Use a token: remove it and add the credential to its client.

        Raises NotFound if there is no such valid token, Conflict, which does not name it, if any client has that key already;
        the token stays valid then.
        """
        client = self._spend(enrolment_id, secret_sha256, now)
        if client is None:
            raise NotFound("no such enrolment")
        try:
            self._clients.add_credential(client, credential)
        except Conflict:
            raise Conflict("public_key: this key cannot be registered; generate a new one") from None
        return self._clients.get(client)

    def _spend(self, enrolment_id: str, secret_sha256: bytes, now: datetime) -> str | None:
        """The name of the token's client. One statement finds and removes the row: of two callers one gets it."""
        statement = (
            delete(enrolments)
            .where(
                enrolments.c.id == enrolment_id,
                enrolments.c.secret_sha256 == secret_sha256,
                enrolments.c.expires_at > now,
            )
            .returning(enrolments.c.client_id)
        )
        client_id = self._connection.execute(statement).scalar_one_or_none()
        if client_id is None:
            return None
        name: str | None = self._connection.scalar(select(clients.c.name).where(clients.c.id == client_id))
        return name

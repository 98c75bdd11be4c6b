"""Rows of one-time enrolment tokens; each function runs inside its caller's transaction.

A token is looked for by its id, which is random too: nobody can spend the tries of a token that he has not seen.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from hmac import compare_digest

from sqlalchemy import Connection, delete, insert, select, update

from hsmd.daemon.store import client_rows
from hsmd.daemon.store.records import EnrolmentRecord
from hsmd.daemon.store.tables import clients, enrolments
from hsmd.protocol.roles import Role

MAX_TRIES = 5


def add(connection: Connection, enrolment: EnrolmentRecord, now: datetime) -> None:
    """Takes the place of earlier tokens of the same client; clears away those that have ended. Raises NotFound."""
    client_id = client_rows.find_id(connection, enrolment.client)
    gone = (enrolments.c.expires_at <= now) | (enrolments.c.client_id == client_id)
    connection.execute(delete(enrolments).where(gone))
    connection.execute(
        insert(enrolments).values(
            id=enrolment.id,
            client_id=client_id,
            secret_sha256=enrolment.secret_sha256,
            expires_at=enrolment.expires_at,
            tries=0,
        )
    )


def check(
    connection: Connection, enrolment_id: str, secret_sha256: bytes, now: datetime, roles: Collection[Role]
) -> bool:
    """Whether a token for a client of one of these roles may be used now.

    Each call is one of its tries, counted by the statement that looks it up.
    """
    statement = (
        update(enrolments)
        .where(enrolments.c.id == enrolment_id, enrolments.c.tries < MAX_TRIES, enrolments.c.expires_at > now)
        .values(tries=enrolments.c.tries + 1)
        .returning(enrolments.c.secret_sha256, enrolments.c.client_id)
    )
    found = connection.execute(statement).one_or_none()
    if found is None or not compare_digest(bytes(found.secret_sha256), secret_sha256):
        return False
    return connection.scalar(select(clients.c.role).where(clients.c.id == found.client_id)) in [
        each.value for each in roles
    ]


def spend(connection: Connection, enrolment_id: str, secret_sha256: bytes, now: datetime) -> str | None:
    """The client whose token this was: the statement that finds it removes it, so of two callers one gets it."""
    statement = (
        delete(enrolments)
        .where(
            enrolments.c.id == enrolment_id,
            enrolments.c.secret_sha256 == secret_sha256,
            enrolments.c.expires_at > now,
        )
        .returning(enrolments.c.client_id)
    )
    client_id = connection.execute(statement).scalar_one_or_none()
    if client_id is None:
        return None
    name: str | None = connection.scalar(select(clients.c.name).where(clients.c.id == client_id))
    return name

"""Rows of revoked credentials; each function runs inside its caller's transaction. Nothing takes one back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select

from hsmd.daemon.store.client_rows import check_fingerprint
from hsmd.daemon.store.records import RevocationRecord
from hsmd.daemon.store.tables import revocations
from hsmd.errors import BadRequest

MAX_SERIAL = 2**64 - 1
MAX_KEY_ID = 256


def add(connection: Connection, revocation: RevocationRecord) -> bool:
    """Whether it is new. Raises BadRequest for one that could never match a credential."""
    _check(revocation)
    if connection.execute(_same(revocation)).first() is not None:
        return False
    connection.execute(
        insert(revocations).values(
            kind=revocation.kind,
            ca_fingerprint=revocation.ca_fingerprint,
            value=revocation.value,
            created_at=revocation.created_at,
        )
    )
    return True


def load_all(connection: Connection) -> list[RevocationRecord]:
    """All, in the order of kind, CA and value."""
    columns = (revocations.c.kind, revocations.c.ca_fingerprint, revocations.c.value)
    return [_record(row) for row in connection.execute(select(revocations).order_by(*columns))]


def _check(revocation: RevocationRecord) -> None:
    if revocation.kind == "key":
        check_fingerprint(revocation.value)
        return
    check_fingerprint(revocation.ca_fingerprint)
    if revocation.kind == "serial":
        digits = revocation.value
        if not (
            digits.isascii() and digits.isdigit() and str(int(digits)) == digits and int(digits) <= MAX_SERIAL
        ):
            raise BadRequest("serial: a decimal number below 2^64, as ssh-keygen -L prints it")
    elif not 0 < len(revocation.value) <= MAX_KEY_ID or "\0" in revocation.value:
        raise BadRequest(f"key_id: 1 to {MAX_KEY_ID} characters, as ssh-keygen -L prints it")


def _same(revocation: RevocationRecord) -> Any:
    return select(revocations.c.kind).where(
        revocations.c.kind == revocation.kind,
        revocations.c.ca_fingerprint == revocation.ca_fingerprint,
        revocations.c.value == revocation.value,
    )


def _record(row: Row[Any]) -> RevocationRecord:
    return RevocationRecord(row.kind, row.ca_fingerprint, row.value, row.created_at)

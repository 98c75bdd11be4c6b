"""Rows of revoked credentials, which are never removed; within one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select

from hsmd.daemon.store.client_rows import check_fingerprint
from hsmd.daemon.store.records import Page, RevocationRecord
from hsmd.daemon.store.rotation_rows import Rotations
from hsmd.daemon.store.tables import revocations
from hsmd.errors import BadRequest

_ORDERED = select(revocations).order_by(revocations.c.kind, revocations.c.ca_fingerprint, revocations.c.value)
MAX_SERIAL = 2**64 - 1
MAX_KEY_ID = 256


class Revocations:
    """The credentials that are refused permanently."""

    def __init__(self, connection: Connection, rotations: Rotations) -> None:
        self._connection = connection
        self._rotations = rotations

    def add(self, revocation: RevocationRecord) -> bool:
        """Refuse a credential permanently; return whether that is new. Ends a rotation of a revoked key.

        Raises BadRequest for one that could never match a credential.
        """
        _check(revocation)
        if revocation.kind == "key":
            self._rotations.end(revocation.value)
        if self._connection.execute(_same(revocation)).first() is not None:
            return False
        row = {
            "kind": revocation.kind,
            "ca_fingerprint": revocation.ca_fingerprint,
            "value": revocation.value,
            "created_at": revocation.created_at,
        }
        self._connection.execute(insert(revocations).values(row))
        return True

    def holds_key(self, fingerprint: str) -> bool:
        """Whether the public key with this fingerprint is revoked."""
        same = (revocations.c.kind == "key") & (revocations.c.value == fingerprint)
        return self._connection.execute(select(revocations.c.kind).where(same).limit(1)).first() is not None

    def page(self, skipped: int, limit: int) -> Page[RevocationRecord]:
        """At most `limit` revocations in order of kind, CA and value, behind the first `skipped` ones.

        None is ever removed, so further ones that come between two pages make a page repeat some and miss none.
        """
        rows = self._connection.execute(_ORDERED.offset(skipped).limit(limit + 1)).all()
        return Page.cut([_record(row) for row in rows], limit)

    def all(self) -> list[RevocationRecord]:
        """All revocations in order of kind, CA and value."""
        return [_record(row) for row in self._connection.execute(_ORDERED)]


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


def _same(revocation: RevocationRecord) -> Select[Any]:
    return select(revocations.c.kind).where(
        revocations.c.kind == revocation.kind,
        revocations.c.ca_fingerprint == revocation.ca_fingerprint,
        revocations.c.value == revocation.value,
    )


def _record(row: Row[Any]) -> RevocationRecord:
    return RevocationRecord(row.kind, row.ca_fingerprint, row.value, row.created_at)

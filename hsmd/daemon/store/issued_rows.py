"""Rows of certificates that authorities have issued, within one transaction."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from hsmd.daemon.store.authority_rows import Authorities
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.records import IssuedRecord, Page
from hsmd.daemon.store.tables import clients, issued_certificates as issued
from hsmd.errors import NotFound

KEY_COMPROMISE = "key-compromise"
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_ISSUED = select(issued, clients.c.name.label("client")).outerjoin(
    clients, clients.c.id == issued.c.client_id
)


class IssuedCertificates:
    """What each authority has certified, and what it has revoked. Rows are not removed while their authority is there."""

    def __init__(self, connection: Connection, authority_rows: Authorities, client_rows: Clients) -> None:
        self._connection = connection
        self._authorities = authority_rows
        self._clients = client_rows

    def begin(self, certificate: IssuedRecord) -> None:
        """Note a certificate that is about to be signed. Raises NotFound for an unknown authority or client."""
        row = {
            "authority_id": self._authorities.find_id(certificate.authority),
            "serial": certificate.serial,
            "profile": certificate.profile,
            "subject": certificate.subject,
            "names": msgspec.json.encode(certificate.names).decode(),
            "key_digest": certificate.key_digest,
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
            "reason": "",
            "client_id": self._clients.find_id(certificate.client) if certificate.client else None,
        }
        self._connection.execute(insert(issued).values(row))

    def finish(self, authority: str, serial: str, certificate: bytes) -> None:
        """Store the signed certificate (DER). Raises NotFound."""
        self._change(authority, serial, certificate=certificate)

    def discard(self, authority: str, serial: str) -> None:
        """Remove the note of a certificate that was certainly not signed."""
        unsigned = delete(issued).where(*self._is(authority, serial), issued.c.certificate.is_(None))
        self._connection.execute(unsigned)

    def get(self, authority: str, serial: str) -> IssuedRecord:
        """Raises NotFound."""
        query = _ISSUED.where(*self._is(authority, serial))
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise _unknown(authority)
        return _record(authority, row)

    def is_known(self, authority: str, serial: str) -> bool:
        """Whether there is a row, signed or not. Raises NotFound for an unknown authority."""
        return (
            self._connection.execute(select(issued.c.id).where(*self._is(authority, serial))).first()
            is not None
        )

    def is_compromised(self, authority: str, key_digest: bytes) -> bool:
        """Whether a certificate for this key was revoked because its key was compromised. Raises NotFound."""
        query = select(issued.c.id).where(
            issued.c.authority_id == self._authorities.find_id(authority),
            issued.c.revoked_at.is_not(None),
            issued.c.reason == KEY_COMPROMISE,
            issued.c.key_digest == key_digest,
        )
        return self._connection.execute(query).first() is not None

    def page(self, authority: str, after: int, limit: int, *, revoked: bool) -> Page[IssuedRecord]:
        """At most `limit` certificates in the order in which they were issued, following the row `after`. Raises NotFound."""
        query = _ISSUED.where(
            issued.c.authority_id == self._authorities.find_id(authority), issued.c.id > after
        )
        if revoked:
            query = query.where(issued.c.revoked_at.is_not(None))
        rows = self._connection.execute(query.order_by(issued.c.id).limit(limit + 1)).all()
        return Page.cut([_record(authority, row) for row in rows], limit)

    def revoke(self, authority: str, serial: str, reason: str, now: datetime) -> bool:
        """Note that a certificate is revoked; returns False if it was before, whose time and reason stay. Raises NotFound."""
        if self.get(authority, serial).revoked_at is not None:
            return False
        self._change(authority, serial, revoked_at=now, reason=reason)
        return True

    def revoked(self, authority: str, since: datetime, limit: int) -> list[IssuedRecord]:
        """At most `limit` revoked certificates that had not ended at `since`, those that were revoked first first."""
        query = (
            _ISSUED.where(
                issued.c.authority_id == self._authorities.find_id(authority),
                issued.c.revoked_at.is_not(None),
                issued.c.not_after > since,
            )
            .order_by(issued.c.revoked_at, issued.c.id)
            .limit(limit)
        )
        return [_record(authority, row) for row in self._connection.execute(query)]

    def _change(self, authority: str, serial: str, **values: Any) -> None:
        done = self._connection.execute(update(issued).where(*self._is(authority, serial)).values(values))
        if done.rowcount == 0:
            raise _unknown(authority)

    def _is(self, authority: str, serial: str) -> tuple[Any, Any]:
        known = serial if _SERIAL.fullmatch(serial) else ""  # any other text never reaches a driver
        return issued.c.authority_id == self._authorities.find_id(authority), issued.c.serial == known


def _unknown(authority: str) -> NotFound:
    return NotFound(
        f"{authority} has issued no certificate with this serial number; `hsmd ca list {authority}` shows those that it has"
    )


def _record(authority: str, row: Row[Any]) -> IssuedRecord:
    return IssuedRecord(
        authority=authority,
        serial=row.serial,
        profile=row.profile,
        subject=row.subject,
        names=tuple(msgspec.json.decode(row.names)),
        key_digest=bytes(row.key_digest),
        not_before=row.not_before,
        not_after=row.not_after,
        certificate=bytes(row.certificate or b""),
        revoked_at=row.revoked_at,
        reason=row.reason,
        client=row.client or "",
        row=row.id,
    )

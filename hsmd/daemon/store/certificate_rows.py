"""Rows of certificate chains, at most one per key, within one transaction."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.records import CertificateRecord
from hsmd.daemon.store.tables import certificates, keys
from hsmd.errors import NotFound

_OF_KEYS = select(
    keys.c.name, certificates.c.chain_pem, certificates.c.not_after, certificates.c.not_before
).join(keys, keys.c.id == certificates.c.key_id)


class Certificates:
    """The certificate chains of keys."""

    def __init__(self, connection: Connection, key_rows: Keys) -> None:
        self._connection = connection
        self._keys = key_rows

    def set(self, key: str, chain_pem: str, not_after: datetime, not_before: datetime | None = None) -> None:
        """Store the chain of a key, replacing the previous one. Raises NotFound for an unknown key."""
        key_id = self._keys.find_id(key)
        self._connection.execute(delete(certificates).where(certificates.c.key_id == key_id))
        row = {
            "key_id": key_id,
            "chain_pem": chain_pem,
            "not_after": not_after,
            "not_before": not_before,
        }
        self._connection.execute(insert(certificates).values(row))

    def get(self, key: str) -> CertificateRecord:
        """Raises NotFound for an unknown key, and for one without a certificate."""
        query = select(certificates).where(certificates.c.key_id == self._keys.find_id(key))
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"no certificate is stored for the key {key!r}; store one with `hsmd cert import`")
        return CertificateRecord(key, row.chain_pem, row.not_after, row.not_before)

    def of(self, names: Collection[str]) -> list[CertificateRecord]:
        """Those of these keys that have one, in no particular order."""
        return [
            CertificateRecord(*row)
            for row in self._connection.execute(_OF_KEYS.where(keys.c.name.in_(list(names))))
        ]

    def all(self) -> list[CertificateRecord]:
        """All certificates in order of their keys' names."""
        return [CertificateRecord(*row) for row in self._connection.execute(_OF_KEYS.order_by(keys.c.name))]

"""Rows of keys and certificates; each function runs inside its caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from hsmd.algorithms import KeyType
from hsmd.daemon.store.records import CertificateRecord, KeyRecord, check_name
from hsmd.daemon.store.tables import certificates, key_purposes, keys
from hsmd.errors import Conflict, NotFound, StoreFailure
from hsmd.purposes import Purpose, check_ceiling

_CHUNK = 500
"""Values in one IN list; both databases have a limit, 32,766 at the least."""
_KNOWN_PURPOSES = frozenset(int(purpose) for purpose in Purpose)


def add(connection: Connection, key: KeyRecord) -> None:
    """Raises BadRequest for a name or ceiling that no key may have, Conflict if name or key is there."""
    check_name("name", key.name)
    check_ceiling(key.key_type, key.purposes)
    if connection.scalar(select(keys.c.id).where(keys.c.name == key.name)) is not None:
        raise Conflict(f"a key named {key.name} exists already; choose another name")
    if present := connection.scalar(select(keys.c.name).where(keys.c.digest == key.digest)):
        raise Conflict(f"this key is served already, under the name {present}")
    key_id = connection.scalar(insert(keys).values(_columns(key)).returning(keys.c.id))
    rows = [{"key_id": key_id, "purpose": int(purpose)} for purpose in sorted(key.purposes)]
    connection.execute(insert(key_purposes), rows)


def find_id(connection: Connection, name: str) -> int:
    """The row id of a key. Raises NotFound."""
    key_id: int | None = connection.scalar(select(keys.c.id).where(keys.c.name == name))
    if key_id is None:
        raise NotFound("no key of that name")
    return key_id


def by_name(connection: Connection, name: str) -> KeyRecord:
    """Raises NotFound."""
    return _one(connection, select(keys).where(keys.c.name == name), "no key of that name")


def by_digest(connection: Connection, digest: bytes) -> KeyRecord:
    """Raises NotFound."""
    return _one(connection, select(keys).where(keys.c.digest == digest), "no key with that digest")


def page(
    connection: Connection, after: str, count: int, digests: Collection[bytes] | None
) -> list[KeyRecord]:
    """At most `count` keys in the order of their names, of all or of those with these digests."""
    query = select(keys).where(keys.c.name > after).order_by(keys.c.name).limit(count)
    if digests is None:
        return _records(connection, connection.execute(query).all())
    rows: list[Row[Any]] = []
    for chunk in _chunks(sorted(digests)):
        rows.extend(connection.execute(query.where(keys.c.digest.in_(chunk))))
    rows.sort(key=lambda row: row.name)
    return _records(connection, rows[:count])


def load_all(connection: Connection) -> list[KeyRecord]:
    """All keys in the order of their names."""
    ceilings = _collect(connection, select(key_purposes))
    rows = connection.execute(select(keys).order_by(keys.c.name))
    return [_record(row, ceilings[row.id]) for row in rows]


def remove(connection: Connection, name: str) -> None:
    """Certificate and grants go with the key. Raises NotFound."""
    if connection.execute(delete(keys).where(keys.c.name == name)).rowcount == 0:
        raise NotFound("no key of that name")


def rename(connection: Connection, name: str, new_name: str) -> None:
    """Certificate and grants stay. Raises NotFound, BadRequest, Conflict if the new name is taken."""
    key_id = find_id(connection, name)
    check_name("new_name", new_name)
    if connection.scalar(select(keys.c.id).where(keys.c.name == new_name)) is not None:
        raise Conflict(f"a key named {new_name} exists already; choose another name")
    connection.execute(update(keys).where(keys.c.id == key_id).values(name=new_name))


def set_certificate(connection: Connection, key_name: str, chain_pem: str, not_after: datetime) -> None:
    """Store the chain of a key in the place of what was there. Raises NotFound for an unknown key."""
    key_id = find_id(connection, key_name)
    connection.execute(delete(certificates).where(certificates.c.key_id == key_id))
    connection.execute(insert(certificates).values(key_id=key_id, chain_pem=chain_pem, not_after=not_after))


def certificate(connection: Connection, key_name: str) -> CertificateRecord:
    """Raises NotFound for an unknown key, and for one without a certificate."""
    key_id = find_id(connection, key_name)
    row = connection.execute(select(certificates).where(certificates.c.key_id == key_id)).one_or_none()
    if row is None:
        raise NotFound("no certificate is stored for this key")
    return CertificateRecord(key_name, row.chain_pem, row.not_after)


def load_certificates(connection: Connection) -> list[CertificateRecord]:
    """All certificates in the order of their keys' names."""
    query = select(keys.c.name, certificates.c.chain_pem, certificates.c.not_after).join(
        keys, keys.c.id == certificates.c.key_id
    )
    return [CertificateRecord(*row) for row in connection.execute(query.order_by(keys.c.name))]


def known_purpose(code: int) -> Purpose | None:
    """The purpose of a stored code; None for one that only a newer release knows: it is not served."""
    return Purpose(code) if code in _KNOWN_PURPOSES else None


def _one(connection: Connection, query: Select[Any], missing: str) -> KeyRecord:
    rows = connection.execute(query).all()
    if not rows:
        raise NotFound(missing)
    return _records(connection, rows)[0]


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[KeyRecord]:
    ceilings: dict[int, set[Purpose]] = defaultdict(set)
    for chunk in _chunks([row.id for row in rows]):
        ceilings.update(_collect(connection, select(key_purposes).where(key_purposes.c.key_id.in_(chunk))))
    return [_record(row, ceilings[row.id]) for row in rows]


def _collect(connection: Connection, query: Select[Any]) -> dict[int, set[Purpose]]:
    ceilings: dict[int, set[Purpose]] = defaultdict(set)
    for key_id, code in connection.execute(query):
        if (purpose := known_purpose(code)) is not None:
            ceilings[key_id].add(purpose)
    return ceilings


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def _columns(key: KeyRecord) -> dict[str, Any]:
    return {
        "name": key.name,
        "key_type": key.key_type.value,
        "digest": key.digest,
        "public_key": key.public_key,
        "token": key.token,
        "created_at": key.created_at,
        "warnings": msgspec.json.encode(key.warnings).decode(),
    }


def _record(row: Row[Any], purposes: set[Purpose]) -> KeyRecord:
    try:
        key_type = KeyType(row.key_type)
        warnings = msgspec.json.decode(row.warnings, type=tuple[str, ...])
    except (ValueError, msgspec.MsgspecError):
        raise StoreFailure(
            "the store is damaged or newer than this release", detail=f"key row {row.id}"
        ) from None
    return KeyRecord(
        name=row.name,
        key_type=key_type,
        digest=bytes(row.digest),
        public_key=bytes(row.public_key),
        purposes=frozenset(purposes),
        token=row.token,
        created_at=row.created_at,
        warnings=warnings,
    )

"""Fills a store with many deposits, faster than deposit by deposit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import func, insert, select, update

from hsmd.daemon.store import Store, Transaction
from hsmd.daemon.store.tables import (
    vault_envelopes,
    vault_owners,
    vault_records,
    vault_statements,
    vault_versions,
)
from hsmd.envelopes.vault.records import RecordStatement
from tests.support.store import NOW
from tests.support.vault_store import Owner

ENVELOPE_BYTES = 1_500


def fill(store: Store, owners: int, records: int, now: datetime = NOW) -> list[Owner]:
    """This number of owners, each with this number of records (`r0`, `r1`, ...) of one version; every second has a term."""
    made = [Owner(store, f"owner{number}").enrol() for number in range(owners)]
    for owner in made:
        owner.begin()
        store.change(lambda tx, owner=owner: _fill(tx, owner, records, now), versioned=False)
    return made


def _fill(tx: Transaction, owner: Owner, records: int, now: datetime) -> None:
    row = tx.vault_owners.locked(owner.name)
    key = tx.vault_keys.active(owner.name)
    assert key is not None
    first = (tx.connection.scalar(select(func.max(vault_versions.c.id))) or 0) + 1
    statements = list(_statements(owner, records, now))
    ids = range(first, first + records)
    execute = tx.connection.execute
    names = [
        {"owner_id": row.owner_id, "name": each.record, "newest": 1, "created_at": now} for each in statements
    ]
    execute(insert(vault_records), names)
    found = select(vault_records.c.name, vault_records.c.id).where(vault_records.c.owner_id == row.owner_id)
    of_name = {row.name: row.id for row in execute(found)}
    execute(
        insert(vault_versions),
        [_version(each, owner, row.owner_id, of_name[each.record], key.row, now) for each in statements],
    )
    envelopes = [{"version_id": version, "envelope": bytes(ENVELOPE_BYTES)} for version in ids]
    execute(insert(vault_envelopes), envelopes)
    signed = [
        {
            "version_id": version,
            "number": 1,
            "text": each.encode(),
            "signature": bytes(64),
            "signer": key.digest,
        }
        for version, each in zip(ids, statements, strict=True)
    ]
    execute(insert(vault_statements), signed)
    execute(update(vault_owners).where(vault_owners.c.owner_id == row.owner_id).values(versions=records))
    owner.heads |= {(each.record, 1): each for each in statements}


def _statements(owner: Owner, records: int, now: datetime) -> Iterator[RecordStatement]:
    first = owner.deposit("r0", now=now)
    for number in range(records):
        key = sha256(owner.spki(f"r{number}", 1)).hexdigest()
        envelope = sha256(bytes(ENVELOPE_BYTES)).hexdigest()
        yield dataclasses.replace(first, record=f"r{number}", key=key, envelope=envelope)


def _version(
    statement: RecordStatement, owner: Owner, owner_id: int, record_id: int, management_id: int, now: datetime
) -> dict[str, Any]:
    number = int(statement.record[1:])
    return {
        "record_id": record_id,
        "owner_id": owner_id,
        "version": 1,
        "kind": statement.kind.value,
        "key_digest": bytes.fromhex(statement.key),
        "suite": statement.suite.value,
        "management_id": management_id,
        "number": 1,
        "head": statement.digest,
        "standing": "live",
        "reason": "",
        "suspended_reason": "",
        "held": False,
        "term_from": now if number % 2 else None,
        "due_at": now + timedelta(days=number) if number % 2 else None,
        "not_after": now + timedelta(days=number) if number % 2 else None,
        "mode": "notify",
        "max_uses": 0,
        "requests": 0,
        "released": 0,
        "told_uses": 0,
        "created_at": now,
        "changed_at": now,
        "spki": owner.spki(statement.record, 1),
    }

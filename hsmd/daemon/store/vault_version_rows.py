"""Rows of versions of records in the vault: finding, locking and reading them, within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, select, true

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.names import check_after, searchable
from hsmd.daemon.store.records import Page
from hsmd.daemon.store.tables import (
    vault_envelopes,
    vault_management_keys,
    vault_owners,
    vault_records,
    vault_versions,
)
from hsmd.daemon.store.vault_management_rows import IS_SEALED
from hsmd.daemon.store.vault_owner_rows import VaultOwners
from hsmd.daemon.store.vault_records import KeyState, RecordSummary, VersionRecord
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.records import Mode, RecordStanding
from hsmd.errors import BadRequest, NotFound

MOST_FOUND = 32
"""Versions with the same key that a search returns; an owner who destroys and deposits a key again has several."""

_ROWS = (
    select(
        vault_versions,
        vault_records.c.name.label("record"),
        vault_records.c.newest,
        vault_owners.c.name.label("owner"),
        vault_management_keys.c.digest.label("management"),
        vault_management_keys.c.state.label("management_state"),
        vault_management_keys.c.held.label("management_held"),
    )
    .join(vault_records, vault_records.c.id == vault_versions.c.record_id)
    .join(vault_owners, vault_owners.c.owner_id == vault_versions.c.owner_id)
    .join(vault_management_keys, vault_management_keys.c.id == vault_versions.c.management_id)
)
_NEWEST = vault_versions.c.version == vault_records.c.newest
_WITH_KEY = (
    _ROWS.where(
        vault_versions.c.owner_id == bindparam("owner_row"), vault_versions.c.key_digest == bindparam("key")
    )
    .order_by(vault_versions.c.id.desc())
    .limit(MOST_FOUND)
)
_WITH_PUBLIC_KEY = _WITH_KEY.where(vault_versions.c.kind == Kind.PRIVATE_KEY.value)
_OF_RECORD_WITH_PUBLIC_KEY = _WITH_PUBLIC_KEY.where(vault_records.c.name == bindparam("name"))


class VaultVersions:
    """Versions of records, each as its newest statement says."""

    def __init__(self, connection: Connection, owners: VaultOwners, order: LockOrder) -> None:
        self._connection = connection
        self._owners = owners
        self._order = order

    def get(self, owner: str, record: str, version: int = 0) -> VersionRecord:
        """A version of an owner's record; 0 for the newest. Raises NotFound."""
        row = self._owners.find(owner)
        which = _NEWEST if version == 0 else vault_versions.c.version == version
        found = [] if row is None else self._by(_of_record(row.owner_id, record), which)
        if not found:
            raise not_there(owner, record, version)
        return found[0]

    def by_row(self, version_row: int) -> VersionRecord:
        """The version with this row id, as it is now. It must exist: no row of a version is ever removed."""
        return self._by(vault_versions.c.id == version_row)[0]

    def lock(self, version_row: int) -> VersionRecord:
        """The same, locked until the transaction ends; read after it was locked, so that nothing read is out of date."""
        self._order.take(Lock.VAULT_VERSION, f"{version_row:020}")
        query = select(vault_versions.c.id).where(vault_versions.c.id == version_row)
        self._connection.execute(query.with_for_update(key_share=True)).all()
        return self.by_row(version_row)

    def envelope(self, version_row: int) -> bytes:
        """The envelope of a version; empty once it is destroyed."""
        query = select(vault_envelopes.c.envelope).where(vault_envelopes.c.version_id == version_row)
        return bytes(self._connection.scalar(query) or b"")

    def page(self, owner: str, after: str, limit: int) -> Page[RecordSummary]:
        """At most `limit` records of an owner in order of name, following `after` ("" for the first page).

        Raises BadRequest for an invalid `after`.
        """
        behind = vault_records.c.name > check_after(after)
        row = self._owners.find(owner)
        if row is None:
            return Page((), more=False)
        mine = vault_records.c.owner_id == row.owner_id
        query = _ROWS.add_columns(vault_records.c.created_at.label("record_created_at"))
        query = query.where(mine, behind, _NEWEST).order_by(vault_records.c.name).limit(limit + 1)
        rows = self._connection.execute(query).all()
        return Page.cut(
            [RecordSummary(row.record, row.record_created_at, _record(row)) for row in rows], limit
        )

    def versions(self, owner: str, record: str, before: int = 0, limit: int = 100) -> Page[VersionRecord]:
        """At most `limit` versions of a record, the newest first, of those before version `before` (0: all).

        Raises NotFound.
        """
        row = self._owners.find(owner)
        older = vault_versions.c.version < before if before else true()
        query = vault_versions.c.version.desc()
        found = (
            []
            if row is None
            else self._by(_of_record(row.owner_id, record), older, order=query, limit=limit + 1)
        )
        if not found and not before:
            raise not_there(owner, record)
        return Page.cut(found, limit)

    def find(self, owner_row: int, key: bytes) -> tuple[VersionRecord, ...]:
        """The versions of an owner with this key; the one that says most first, as `find_public`."""
        return self._found(_WITH_KEY, owner_row=owner_row, key=key)

    def find_public(self, owner_row: int, key: bytes, record: str = "") -> tuple[VersionRecord, ...]:
        """The versions of an owner with this public key, of all records or one; the one that says most first.

        That is what is not destroyed before what is, and the newest version of a record before older ones. The check value of
        a symmetric key is the owner's word, without a proof of possession, so it counts for no public key.
        """
        if not record:
            return self._found(_WITH_PUBLIC_KEY, owner_row=owner_row, key=key)
        name = searchable(record)
        return self._found(_OF_RECORD_WITH_PUBLIC_KEY, owner_row=owner_row, key=key, name=name)

    def _found(self, query: Select[Any], **values: object) -> tuple[VersionRecord, ...]:
        found = [_record(row) for row in self._connection.execute(query, values)]
        return tuple(sorted(found, key=_rank))

    def sealed_to(self, owner: str, management: bytes, after: str, limit: int) -> Page[VersionRecord]:
        """At most `limit` versions whose envelopes are sealed to a management key, in the order of their deposits.

        `after` is "RECORD/VERSION", the last one of the page before, or "". Raises BadRequest for anything else.
        """
        row = self._owners.find(owner)
        behind = self._position(owner, after)
        if row is None:
            return Page((), more=False)
        mine = vault_management_keys.c.owner_id == row.owner_id
        same = vault_management_keys.c.digest == management
        key = self._connection.scalar(select(vault_management_keys.c.id).where(mine, same))
        under = vault_versions.c.management_id == key
        found = self._by(under, IS_SEALED, vault_versions.c.id > behind, limit=limit + 1)
        return Page.cut(found, limit)

    def _position(self, owner: str, after: str) -> int:
        """The row id of the version "RECORD/VERSION"; 0 for ""."""
        if not after:
            return 0
        record, _, version = after.partition("/")
        if not (version.isascii() and version.isdigit() and len(version) <= 9 and int(version)):
            raise BadRequest("after: must be RECORD/VERSION of the previous page, or empty")
        return self.get(owner, record, int(version)).row

    def _by(
        self, *which: ColumnElement[bool], order: Any = vault_versions.c.id, limit: int | None = None
    ) -> Sequence[VersionRecord]:
        query = _ROWS.where(*which).order_by(order).limit(limit)
        return [_record(row) for row in self._connection.execute(query)]


def not_there(owner: str, record: str, version: int = 0) -> NotFound:
    """The error for a record or version that an owner does not have."""
    what = f"version {version} of " if version else ""
    return NotFound(
        f"{owner[:64]!r} has no {what}{record[:64]!r} in the vault; `hsmd vault list` shows what is there"
    )


def _of_record(owner_id: int, record: str) -> ColumnElement[bool]:
    return and_(vault_records.c.owner_id == owner_id, vault_records.c.name == searchable(record))


def _rank(found: VersionRecord) -> tuple[bool, bool, int]:
    return found.standing is RecordStanding.DESTROYED, found.superseded, -found.row


def _record(row: Row[Any]) -> VersionRecord:
    return VersionRecord(
        owner=row.owner,
        record=row.record,
        version=row.version,
        newest=row.newest,
        kind=row.kind,
        key=bytes(row.key_digest),
        spki=bytes(row.spki),
        suite=row.suite,
        management=bytes(row.management),
        management_state=KeyState(row.management_state),
        number=row.number,
        head=bytes(row.head),
        standing=RecordStanding(row.standing),
        reason=row.reason,
        compromised_at=row.compromised_at,
        suspended_at=row.suspended_at,
        suspended_reason=row.suspended_reason,
        held=row.held,
        ended_at=row.ended_at,
        not_before=row.not_before,
        not_after=row.not_after,
        max_uses=row.max_uses,
        mode=Mode(row.mode),
        requests=row.requests,
        released=row.released,
        created_at=row.created_at,
        changed_at=row.changed_at,
        management_held=row.management_held,
        row=row.id,
        owner_row=row.owner_id,
    )

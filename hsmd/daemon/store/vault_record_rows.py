"""Rows of records in the vault: deposits, and what their owners state about them later; within one transaction.

Signatures were verified before. What is decided here is what two concurrent requests could both pass: that a statement
follows on the newest one, that versions have no gaps, and quotas.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from hsmd.daemon.store.names import check_name
from hsmd.daemon.store.tables import vault_envelopes, vault_records, vault_versions
from hsmd.daemon.store.vault_events import VaultEvents
from hsmd.daemon.store.vault_management_rows import VaultKeys
from hsmd.daemon.store.vault_owner_rows import VaultOwners, no_management_key
from hsmd.daemon.store.vault_quotas import (
    MAX_BYTES,
    MAX_STATEMENTS,
    RESERVED_BYTES,
    RESERVED_STATEMENTS,
)
from hsmd.daemon.store.vault_records import ManagementKeyRecord, Stated, VersionRecord
from hsmd.daemon.store.vault_statement_rows import VaultStatements
from hsmd.daemon.store.vault_terms import Term
from hsmd.daemon.store.vault_version_rows import VaultVersions
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES
from hsmd.envelopes.vault.fields import MAX_REASON_CHARACTERS, format_time, parse_time
from hsmd.envelopes.vault.records import (
    DESTROY,
    LIMITS,
    REVOKE,
    REWRAP,
    RecordStanding,
    RecordStatement,
    follows,
)
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid

_NO_LIMIT_OF_BYTES = 2**62
_ENDED = frozenset({RecordStanding.REVOKED, RecordStanding.COMPROMISED})


class VaultRecords:
    """The keys that owners have deposited. Each change locks the owner, so an owner's changes run one after the other."""

    def __init__(
        self,
        connection: Connection,
        owners: VaultOwners,
        keys: VaultKeys,
        versions: VaultVersions,
        statements: VaultStatements,
        events: VaultEvents,
    ) -> None:
        self._connection = connection
        self._owners = owners
        self._keys = keys
        self._versions = versions
        self._statements = statements
        self._events = events

    def put(self, owner: str, stated: Stated, envelope: bytes, spki: bytes, now: datetime) -> VersionRecord:
        """Deposit a key: a new record, or the next version of one.

        Raises Conflict without a management key that is active and that the statement names, for another version than the
        next one, and for a key that the owner has deposited already or declared compromised; BadRequest beyond the quota.
        """
        row = self._owners.locked(owner)
        statement = stated.statement
        _check_is_of(owner, statement)
        management = self._active(owner, statement)
        _check_envelope(statement, envelope)
        self._check_key(row.owner_id, statement)
        record_id = self._record_for(row.owner_id, statement, now)
        self._owners.charge(row, versions=1, size=stated.size + len(envelope) + len(spki), most=MAX_BYTES)
        version_row = self._insert(row.owner_id, record_id, management, stated, spki, now)
        self._connection.execute(insert(vault_envelopes).values(version_id=version_row, envelope=envelope))
        return self._versions.by_row(version_row)

    def limit(self, owner: str, stated: Stated, now: datetime) -> VersionRecord:
        """Change term, maximum of uses or mode, or state them again after a restore, which ends the hold.

        A term that had ended begins again only if it ends later than before. Uses stay counted. Raises as `revoke`, and
        BadRequest beyond the quota, and for a later end before the time at which the end was seen.
        """
        row, version = self._locked(owner, stated)
        if version.standing is not RecordStanding.LIVE:
            raise Conflict(
                f"record: {_named(version)} is {version.standing}; deposit a new version with `hsmd vault put`"
            )
        self._check_room(version, MAX_STATEMENTS)
        self._owners.charge(row, size=stated.size, most=MAX_BYTES)
        return self._apply(version, stated, LIMITS, now, held=False, **_term(version, stated.statement, now))

    def revoke(self, owner: str, stated: Stated, now: datetime) -> VersionRecord:
        """State that a version is revoked or compromised. Raises NotFound, Conflict if the statement does not follow on the
        newest one, BadRequest if it changes something else.
        """
        row, version = self._locked(owner, stated)
        if stated.statement.standing not in _ENDED:
            raise BadRequest("text: standing is neither revoked nor compromised")
        again = stated.statement.standing is version.standing
        if again:
            self._check_room(version, MAX_STATEMENTS)
        self._owners.charge(row, size=stated.size, most=MAX_BYTES if again else _NO_LIMIT_OF_BYTES)
        after = self._apply(version, stated, REVOKE, now, due_at=None)
        compromised = after.standing is RecordStanding.COMPROMISED
        if after.standing is not version.standing:
            kind = "vault.compromised" if compromised else "vault.revoked"
            self._events.tell(kind, after, now, reason=after.reason)
        return after

    def destroy(self, owner: str, stated: Stated, now: datetime) -> VersionRecord:
        """State that a version is destroyed, and delete its envelope. Raises as `revoke`."""
        row, version = self._locked(owner, stated)
        if version.standing is RecordStanding.DESTROYED:
            raise Conflict(f"record: {_named(version)} is destroyed already")
        if stated.statement.standing is not RecordStanding.DESTROYED:
            raise BadRequest("text: standing is not destroyed")
        freed = len(self._versions.envelope(version.row))
        self._owners.charge(row, versions=-1, size=stated.size - freed, most=_NO_LIMIT_OF_BYTES)
        after = self._apply(version, stated, DESTROY, now, due_at=None)
        mine = vault_envelopes.c.version_id == version.row
        self._connection.execute(delete(vault_envelopes).where(mine))
        self._events.tell("vault.destroyed", after, now, reason=after.reason)
        return after

    def rewrap(self, owner: str, stated: Stated, envelope: bytes, now: datetime) -> VersionRecord:
        """Replace the envelope by one that is sealed to the active management key. Raises as `put` and `revoke`."""
        row, version = self._locked(owner, stated)
        management = self._active(owner, stated.statement)
        _check_envelope(stated.statement, envelope)
        self._check_room(version, MAX_STATEMENTS + RESERVED_STATEMENTS)
        grown = len(envelope) - len(self._versions.envelope(version.row))
        self._owners.charge(row, size=stated.size + grown, most=MAX_BYTES + RESERVED_BYTES)
        after = self._apply(version, stated, REWRAP, now, management_id=management.row)
        mine = vault_envelopes.c.version_id == version.row
        self._connection.execute(update(vault_envelopes).where(mine).values(envelope=envelope))
        return after

    def suspend(self, owner: str, record: str, version: int, reason: str, now: datetime) -> VersionRecord:
        """Give a version out no more until `resume`; one that is suspended stays so, with its first reason.

        Raises NotFound, BadRequest for a reason that is no printable line, Conflict if the version is destroyed.
        """
        if len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
            raise BadRequest(
                f"reason: must be a printable line of at most {MAX_REASON_CHARACTERS} characters"
            )
        before = self._versions.lock(self._versions.get(owner, record, version).row)
        if before.standing is RecordStanding.DESTROYED:
            raise Conflict(f"record: {_named(before)} is destroyed")
        if before.suspended_at is not None:
            return before
        after = self._set(before, now, suspended_at=now, suspended_reason=reason)
        self._events.tell("vault.suspended", after, now, reason=reason)
        return after

    def resume(self, owner: str, record: str, version: int, now: datetime) -> VersionRecord:
        """End what `suspend` has begun; one that is not suspended stays as it is. Raises NotFound."""
        before = self._versions.lock(self._versions.get(owner, record, version).row)
        if before.suspended_at is None:
            return before
        after = self._set(before, now, suspended_at=None, suspended_reason="")
        self._events.tell("vault.resumed", after, now)
        return after

    # --- deposits ---

    def _active(self, owner: str, statement: RecordStatement) -> ManagementKeyRecord:
        """The active management key, to which the envelope of this statement must be sealed."""
        active = self._keys.active(owner)
        if active is None:
            raise no_management_key(owner)
        if statement.management != active.digest.hex():
            raise Conflict(
                f"text: management is not the digest of the active management key of {owner}, number {active.number}; "
                "seal the key to that one"
            )
        return active

    def _check_key(self, owner_id: int, statement: RecordStatement) -> None:
        """A key that is compromised does not come back, and one that is there is not deposited under another name."""
        for found in self._versions.find(owner_id, bytes.fromhex(statement.key)):
            if found.compromised_at is not None:
                raise Conflict(f"record: this key is {_named(found)}, which is compromised; make a new key")
            if found.standing is not RecordStanding.DESTROYED:
                raise Conflict(
                    f"record: this key is {_named(found)} already; change its limits with `hsmd vault limits`, or make a new key"
                )

    def _record_for(self, owner_id: int, statement: RecordStatement, now: datetime) -> int:
        """The row id of the record, whose newest version is now the one of the statement."""
        check_name("record", statement.record)
        same = (vault_records.c.owner_id == owner_id) & (vault_records.c.name == statement.record)
        found = self._connection.execute(select(vault_records).where(same)).one_or_none()
        due = found.newest + 1 if found else 1
        if (statement.version, statement.number) != (due, 1):
            raise Conflict(
                f"text: the next deposit of {statement.record} is version {due}, with a statement of the number 1; state it anew"
            )
        if found is not None:
            self._connection.execute(update(vault_records).where(same).values(newest=due))
            return int(found.id)
        new = {"owner_id": owner_id, "name": statement.record, "newest": due, "created_at": now}
        added = insert(vault_records).values(new).returning(vault_records.c.id)
        return int(self._connection.scalar(added) or 0)

    def _insert(
        self,
        owner_id: int,
        record_id: int,
        management: ManagementKeyRecord,
        stated: Stated,
        spki: bytes,
        now: datetime,
    ) -> int:
        statement = stated.statement
        not_after = _moment(statement.not_after)
        new = {
            "record_id": record_id,
            "owner_id": owner_id,
            "version": statement.version,
            "kind": statement.kind.value,
            "key_digest": bytes.fromhex(statement.key),
            "management_id": management.row,
            "suspended_reason": "",
            "held": False,
            "requests": 0,
            "released": 0,
            "told_uses": 0,
            "created_at": now,
            "changed_at": now,
            "spki": spki,
            **_stated(stated),
            **_schedule(_moment(statement.not_before), not_after, now),
        }
        added = insert(vault_versions).values(new).returning(vault_versions.c.id)
        version_row = int(self._connection.scalar(added) or 0)
        self._statements.add(version_row, stated)
        return version_row

    # --- later statements ---

    def _locked(self, owner: str, stated: Stated) -> tuple[Row[Any], VersionRecord]:
        """The rows of owner and version, both locked, once it is known that the statement follows on the newest one."""
        row = self._owners.locked(owner)
        statement = stated.statement
        _check_is_of(owner, statement)
        version = self._versions.get(owner, statement.record, statement.version)
        return row, self._versions.lock(version.row)

    def _apply(
        self, version: VersionRecord, stated: Stated, changes: frozenset[str], now: datetime, **more: Any
    ) -> VersionRecord:
        """Keep a statement that changes these members, and what follows from it for the row of the version."""
        self._check_follows(version, stated.statement, changes)
        self._statements.add(version.row, stated)
        return self._set(version, now, **_stated(stated), **more)

    def _check_follows(self, version: VersionRecord, newer: RecordStatement, changes: frozenset[str]) -> None:
        """Raises Conflict for a statement that does not follow on the newest one, BadRequest for another change.

        While a version is held, its owner may have signed statements that the restored store does not know; the next one then
        has a number above theirs.
        """
        stale = newer.number <= version.number if version.held else newer.number != version.number + 1
        if stale or newer.previous != version.head.hex():
            raise Conflict(
                f"text: the newest statement about {_named(version)} has the number {version.number} and the SHA-256 "
                f"{version.head.hex()}; make a statement that follows on it"
            )
        older = self._statements.decoded_head(version)
        try:
            follows(older, dataclasses.replace(newer, number=older.number + 1), changes)
        except EnvelopeInvalid as problem:
            raise BadRequest(f"text: {problem.text}") from None

    def _check_room(self, version: VersionRecord, most: int) -> None:
        if self._statements.count(version.row) >= most:
            raise BadRequest(
                f"text: there are {most} statements about {_named(version)}, which is the most; deposit a new version"
            )

    def _set(self, version: VersionRecord, now: datetime, **values: Any) -> VersionRecord:
        same = vault_versions.c.id == version.row
        self._connection.execute(update(vault_versions).where(same).values(**values, changed_at=now))
        return self._versions.by_row(version.row)


def _named(version: VersionRecord) -> str:
    return f"{version.record} version {version.version}"


def _check_is_of(owner: str, statement: RecordStatement) -> None:
    if statement.owner != owner:
        raise BadRequest(f"text: it is a statement of {statement.owner}, not of {owner}")


def _check_envelope(statement: RecordStatement, envelope: bytes) -> None:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise BadRequest(f"envelope: has {len(envelope)} bytes; {MAX_ENVELOPE_BYTES} are allowed")
    if sha256(envelope).hexdigest() != statement.envelope:
        raise BadRequest("envelope: its SHA-256 is not the one in the statement")


def _stated(stated: Stated) -> dict[str, Any]:
    """What the row of a version repeats of its newest statement."""
    statement = stated.statement
    return {
        "suite": statement.suite.value,
        "number": statement.number,
        "head": sha256(stated.text).digest(),
        "standing": statement.standing.value,
        "reason": statement.reason,
        "compromised_at": _moment(statement.compromised_at),
        "not_before": _moment(statement.not_before),
        "not_after": _moment(statement.not_after),
        "max_uses": statement.max_uses,
        "mode": statement.mode.value,
    }


def _term(version: VersionRecord, statement: RecordStatement, now: datetime) -> dict[str, Any]:
    """What a statement of limits means for the end of the term and its announcements; nothing if the end stays.

    Raises BadRequest for a later end that would not begin the term again.
    """
    end = _moment(statement.not_after)
    if end == version.not_after:
        return {}
    if version.ended_at is not None and end is not None and end <= max(version.ended_at, now):
        _check_extends_nothing(version, end)
        return {"term_from": None, "due_at": None}
    return {"ended_at": None, **_schedule(_moment(statement.not_before), end, now)}


def _check_extends_nothing(version: VersionRecord, end: datetime) -> None:
    """An end that was seen stays; who states a later one before that time means to extend the term, and would not be told."""
    ended_at = version.ended_at
    if ended_at is not None and version.not_after is not None and version.not_after < end <= ended_at:
        raise BadRequest(
            f"text: not_after: the term of {_named(version)} ended at {format_time(ended_at)} by the daemon's clock, which may "
            "have been ahead; state an end after that time, or none"
        )


def _schedule(begin: datetime | None, end: datetime | None, now: datetime) -> dict[str, Any]:
    """From when thresholds are placed, and when the next one is passed: the end at once, if that has passed."""
    if end is None:
        return {"term_from": None, "due_at": None}
    term = Term(min(max(begin or now, now), end), end)
    return {"term_from": term.begin, "due_at": term.next_due(now) or end}


def _moment(text: str) -> datetime | None:
    return parse_time(text) if text else None

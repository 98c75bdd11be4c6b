"""Changes of a deposited key: the owner signs the next statement about it, which says everything that holds from then on."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from hsmd.envelopes.vault import records
from hsmd.envelopes.vault.fields import format_time, parse_time
from hsmd.envelopes.vault.records import RecordStanding, RecordStatement
from hsmd.envelopes.vault.signing import Kind
from hsmd.errors import Conflict, NotFound
from hsmd.holder.deposits import Terms
from hsmd.holder.own_statements import RESTORED, StatementRefused, learn, verified
from hsmd.holder.proving import Prover
from hsmd.holder.seen import Before, Seen, Subject
from hsmd.protocol.messages import (
    Request,
    VaultDestroy,
    VaultLimits,
    VaultRevoke,
    VaultShow,
    VaultStatements,
    VaultVersion,
    VaultVersions,
)

ATTEMPTS = 3
"""How often a change is signed anew because another command has stated something meanwhile."""

Changing = type[VaultLimits] | type[VaultRevoke] | type[VaultDestroy]


class Changes:
    """Signs and sends changes of one owner's records, and remembers each that was accepted."""

    def __init__(self, prover: Prover, seen: Seen) -> None:
        self._prover = prover
        self._seen = seen

    def limits(
        self,
        record: str,
        version: int,
        terms: dict[str, object],
        reason: str,
        now: datetime,
        *,
        restored: bool = False,
    ) -> RecordStatement:
        """Replace the members of `Terms` that are given. Raises HsmdError or OSError.

        With `restored` the daemon's statement may be older than one that was seen, because its store is from a backup; the new
        one gets a number above both. The caller has all terms stated anew then: those of the old statement prove nothing.
        """
        changes = {**terms, "reason": reason}
        if restored:
            changes["reason"] = f"{RESTORED}: {reason}" if reason else RESTORED
        return self._change(VaultLimits, records.LIMITS, record, version, now, changes, restored=restored)

    def revoke(
        self, record: str, version: int, reason: str, now: datetime, compromised_at: datetime | None = None
    ) -> RecordStatement:
        """End a version permanently; with `compromised_at`, as known to others since then. Raises HsmdError or OSError."""
        changes: dict[str, object] = {"standing": RecordStanding.REVOKED, "reason": reason}
        if compromised_at is not None:
            changes |= {
                "standing": RecordStanding.COMPROMISED,
                "compromised_at": format_time(compromised_at),
            }
        return self._change(VaultRevoke, records.REVOKE, record, version, now, changes)

    def destroy(self, record: str, version: int, reason: str, now: datetime) -> RecordStatement:
        """Have the envelope of a version deleted; also of one whose management key was lost. Raises HsmdError or OSError."""
        changes: dict[str, object] = {
            "standing": RecordStanding.DESTROYED,
            "reason": reason,
            "envelope": "",
        }
        return self._change(VaultDestroy, records.DESTROY, record, version, now, changes, also_lost=True)

    def _change(
        self,
        request: Changing,
        allowed: frozenset[str],
        record: str,
        version: int,
        now: datetime,
        changes: dict[str, object],
        *,
        also_lost: bool = False,
        restored: bool = False,
    ) -> RecordStatement:
        """Sign and send what follows the newest statement; again if another command was faster."""
        refused: Conflict | None = None
        behind = 0
        for _ in range(ATTEMPTS):
            older, newer = self._next(
                allowed, record, version, now, changes, also_lost=also_lost, restored=restored
            )
            if refused is not None and older.number == behind:
                raise refused
            try:
                if not restored:
                    self._check_not_overtaken(older)
                text, signature = signed(self._prover, newer)
                made: Request = request(text, signature)
                self._prover.ask(made, record, older.version)
            except Conflict as error:
                refused, behind, version = error, older.number, older.version
                continue
            learn(self._seen, newer)
            return newer
        assert refused is not None
        raise refused

    def _check_not_overtaken(self, older: RecordStatement) -> None:
        """Raises Conflict if another command has seen a newer statement since the daemon was asked for this one.

        A daemon that keeps its answer back could otherwise have limits signed that the other command has replaced.
        """
        seen = self._seen.newest(Subject(older.owner, older.record, older.version))
        if seen is not None and seen.number > older.number:
            raise Conflict(
                f"{older.record}: another command has stated number {seen.number} meanwhile, which the daemon does not give; "
                "try again"
            )

    def _next(
        self,
        allowed: frozenset[str],
        record: str,
        version: int,
        now: datetime,
        changes: dict[str, object],
        *,
        also_lost: bool,
        restored: bool,
    ) -> tuple[RecordStatement, RecordStatement]:
        """The newest statement about a version, and the one that is to follow it."""
        before = self._seen.before(self._prover.key.statement.owner, record, version)
        shown = version_of(self._prover, record, version)
        older = head(self._prover, self._seen, shown, before, also_lost=also_lost, restored=restored)
        newer = following(older, now, changes)
        records.follows(older, newer, allowed)
        if restored:
            seen = self._seen.newest(Subject(older.owner, older.record, older.version))
            newer = dataclasses.replace(newer, number=1 + max(older.number, seen.number if seen else 0))
        return older, newer


def version_of(prover: Prover, record: str, version: int = 0) -> VaultVersion:
    """What the daemon says of a version (0: the newest one).

    Raises NotFound, StatementRefused if it tells of another record, or another HsmdError.
    """
    shown: VaultVersions = prover.daemon.control(
        VaultShow(record, before=version + 1 if version else 0, limit=1)
    )
    found = next((each for each in shown.versions if version in (0, each.version)), None)
    if found is None:
        raise NotFound(f"{record} has no version {version}; `hsmd vault show {record}` lists them")
    if found.record != record:  # a change of that one would be signed
        raise StatementRefused(
            f"the daemon showed {found.record[:80]} instead of {record}: nothing was done; tell the operators"
        )
    return found


def head(
    prover: Prover,
    seen: Seen,
    shown: VaultVersion,
    before: Before,
    *,
    also_lost: bool = False,
    restored: bool = False,
) -> RecordStatement:
    """The newest statement about a version, verified. Raises as `own_statements.verified`."""
    wanted = VaultStatements(shown.record, shown.version, after=max(0, shown.number - 1))
    page: Any = prover.daemon.control(wanted)
    if not page.statements:
        raise NotFound(
            f"the daemon shows no statement about {shown.record} version {shown.version}; try again"
        )
    newest = page.statements[-1]
    subject = Subject(prover.key.statement.owner, shown.record, shown.version)
    return verified(
        prover, seen, newest.text, newest.signature, subject, before, also_lost=also_lost, restored=restored
    )


def following(older: RecordStatement, now: datetime, changes: dict[str, object]) -> RecordStatement:
    """The next statement. It is never dated before the one that it follows, should the clock have been set back."""
    numbered = {
        "number": older.number + 1,
        "previous": older.digest.hex(),
        "stated_at": max(format_time(now), older.stated_at),
    }
    return dataclasses.replace(older, **numbered, **changes)  # type: ignore[arg-type]


def signed(prover: Prover, statement: RecordStatement) -> tuple[bytes, bytes]:
    """Text and signature."""
    text = statement.encode()
    return text, prover.key.sign(Kind.RECORD, text)


def terms_of(statement: RecordStatement) -> Terms:
    """The terms in a statement, for those that are to stay."""
    return Terms(
        parse_time(statement.not_before) if statement.not_before else None,
        parse_time(statement.not_after) if statement.not_after else None,
        statement.max_uses,
        statement.mode,
    )

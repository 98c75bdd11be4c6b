"""Acquisitions: decided and counted in one transaction, and kept until their daemon has them in its log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Update,
    bindparam,
    case,
    delete,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.tables import vault_acquisitions, vault_versions
from hsmd.daemon.store.vault_announcement_rows import VaultAnnouncements
from hsmd.daemon.store.vault_events import VaultEvents
from hsmd.daemon.store.vault_records import Acquisition, AcquisitionId, Given, NotGiven, VersionRecord
from hsmd.daemon.store.vault_statement_rows import VaultStatements
from hsmd.daemon.store.vault_version_rows import VaultVersions
from hsmd.envelopes.vault.life_cycle import Reason, Standing, is_exhausted

_INSERT = insert(vault_acquisitions)
_ID = tuple_(vault_acquisitions.c.version_id, vault_acquisitions.c.request)


def _raising() -> Update:
    """The statement that raises the counts of a version, and alters no row whose counts are as high already."""
    columns = vault_versions.c.requests, vault_versions.c.released
    least = [bindparam(f"least_{column.name}", type_=BigInteger) for column in columns]
    lower = [column < bound for column, bound in zip(columns, least, strict=True)]
    raised = {
        column.name: case((is_lower, bound), else_=column)
        for column, bound, is_lower in zip(columns, least, lower, strict=True)
    }
    same = vault_versions.c.id == bindparam("version_row")
    return update(vault_versions).where(same, or_(*lower)).values(raised)


_RAISE = _raising()


class VaultAcquisitions:
    """What was asked for and given out. Nothing lowers a count."""

    def __init__(
        self,
        connection: Connection,
        versions: VaultVersions,
        statements: VaultStatements,
        announcements: VaultAnnouncements,
        events: VaultEvents,
        order: LockOrder,
    ) -> None:
        self._connection = connection
        self._versions = versions
        self._statements = statements
        self._announcements = announcements
        self._events = events
        self._order = order
        self._counted: list[Acquisition] = []
        self._removed: set[AcquisitionId] = set()

    def count(
        self, owner: str, record: str, version: int, ticket: str, origin: str, now: datetime
    ) -> Given | NotGiven:
        """Count a request for a version (0: the newest), decide, and count the release if it is given out.

        To be called after the caller has proved to have the management key. The version is locked until the transaction ends,
        so what is decided is true when it is counted, and no envelope may leave before the commit. Raises NotFound.
        """
        found = self._versions.lock(self._versions.get(owner, record, version).row)
        standing = found.judge(now)
        after = self._step(found, released=int(standing.acquirable))
        if standing.reason is Reason.EXPIRED:
            self._announcements.note_end(found, now)
        self._tell(found, after, standing, now)
        acquisition = _acquisition(after, standing, ticket, origin, now)
        self._counted.append(acquisition)
        if not standing.acquirable:
            return NotGiven(after, standing, acquisition)
        return Given(after, self._statements.head(after), self._versions.envelope(after.row), acquisition)

    def raise_counts(self, counts: Sequence[tuple[int, int, int]]) -> int:
        """Raise requests and releases of versions, each given with its row id, in order of these, to at least these numbers.

        Returns how many versions had lower ones. Nothing is announced: what reaches a maximum was announced when it happened,
        and a use beyond it is when it is asked for.
        """
        raised = 0
        for version_row, requests, released in counts:
            self._order.take(Lock.VAULT_VERSION, f"{version_row:020}")
            wanted = {"version_row": version_row, "least_requests": requests, "least_released": released}
            raised += self._connection.execute(_RAISE, wanted).rowcount
        return raised

    def remove(self, acquisitions: Iterable[AcquisitionId]) -> None:
        """Forget these when this transaction commits: their daemon has them in its log."""
        self._removed |= set(acquisitions)

    def finish(self) -> None:
        """Last step of a write transaction."""
        if not (self._counted or self._removed):
            return
        self._order.take(Lock.VAULT_ACQUISITIONS)
        if self._removed:
            self._connection.execute(delete(vault_acquisitions).where(_ID.in_(sorted(self._removed))))
        if self._counted:
            self._connection.execute(_INSERT, [_row(each) for each in self._counted])
        self._counted, self._removed = [], set()

    def all_of(self, origin: str) -> list[Acquisition]:
        """Those of a log's daemon, also if their commit is under way though their process was killed.

        They are few, as those of `CountedUses.all_of`. To be called in a write.
        """
        self._order.take(Lock.VAULT_ACQUISITIONS)
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer, and it is this one
            self._connection.execute(text("LOCK TABLE vault_acquisitions IN SHARE ROW EXCLUSIVE MODE"))
        mine = vault_acquisitions.c.origin == origin
        order = (
            vault_acquisitions.c.counted_at,
            vault_acquisitions.c.version_id,
            vault_acquisitions.c.request,
        )
        rows = self._connection.execute(select(vault_acquisitions).where(mine).order_by(*order))
        return [_record(row) for row in rows]

    def _step(self, version: VersionRecord, *, released: int) -> VersionRecord:
        """Count a request, and its release; return the version, whose row is locked, with the new counts."""
        after = dataclasses.replace(
            version, requests=version.requests + 1, released=version.released + released
        )
        step = update(vault_versions).where(vault_versions.c.id == version.row)
        self._connection.execute(step.values(requests=after.requests, released=after.released))
        return after

    def _tell(self, before: VersionRecord, after: VersionRecord, standing: Standing, now: datetime) -> None:
        """Append what this request made true of the maximum of uses: reached, or the first use beyond it."""
        counts = {
            "max_uses": after.max_uses,
            "released": after.released,
            "requests": after.requests,
            "mode": after.mode.value,
        }
        if standing.acquirable and after.released == after.max_uses:
            self._events.tell("vault.exhausted", after, now, **counts)
        beyond = is_exhausted(before.facts) and (standing.acquirable or standing.reason is Reason.LIMIT)
        if beyond and self._is_first_beyond(after):
            self._events.tell("vault.over-use", after, now, **counts, given=standing.acquirable)

    def _is_first_beyond(self, version: VersionRecord) -> bool:
        """Note that the crossing of this maximum is announced; false if it was before."""
        new = update(vault_versions).where(
            vault_versions.c.id == version.row, vault_versions.c.told_uses != version.max_uses
        )
        return self._connection.execute(new.values(told_uses=version.max_uses)).rowcount > 0


def _acquisition(
    version: VersionRecord, standing: Standing, ticket: str, origin: str, now: datetime
) -> Acquisition:
    return Acquisition(
        version_row=version.row,
        request=version.requests,
        released=version.released if standing.acquirable else 0,
        refusal="" if standing.acquirable else standing.reason.value,
        origin=origin,
        ticket=ticket,
        owner=version.owner,
        record=version.record,
        version=version.version,
        counted_at=now,
    )


def _row(acquisition: Acquisition) -> dict[str, Any]:
    return {
        "version_id": acquisition.version_row,
        "request": acquisition.request,
        "released": acquisition.released,
        "refusal": acquisition.refusal,
        "origin": acquisition.origin,
        "ticket": acquisition.ticket,
        "owner": acquisition.owner,
        "record": acquisition.record,
        "version": acquisition.version,
        "counted_at": acquisition.counted_at,
    }


def _record(row: Row[Any]) -> Acquisition:
    return Acquisition(
        version_row=row.version_id,
        request=row.request,
        released=row.released,
        refusal=row.refusal,
        origin=row.origin,
        ticket=row.ticket,
        owner=row.owner,
        record=row.record,
        version=row.version,
        counted_at=row.counted_at,
    )

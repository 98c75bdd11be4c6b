"""Announcements of the ends of terms, each threshold once for all daemons that share the store; within one transaction.

When the next threshold of a version is passed stands in its row, behind an index. So a look costs what is due, and what was
announced is known after a restart, and if the clock was set back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from hsmd.daemon.store.tables import vault_versions
from hsmd.daemon.store.vault_events import VaultEvents
from hsmd.daemon.store.vault_records import VersionRecord
from hsmd.daemon.store.vault_terms import END, Term
from hsmd.daemon.store.vault_version_rows import VaultVersions
from hsmd.envelopes.vault.fields import format_time

AT_ONCE = 50
"""Versions of one transaction: an event has up to a hundred readers."""


class VaultAnnouncements:
    """What is told of terms that end."""

    def __init__(self, connection: Connection, versions: VaultVersions, events: VaultEvents) -> None:
        self._connection = connection
        self._versions = versions
        self._events = events

    def next_due(self) -> datetime | None:
        """When the next threshold is passed."""
        query = select(vault_versions.c.due_at).where(vault_versions.c.due_at.is_not(None))
        return self._connection.scalar(query.order_by(vault_versions.c.due_at).limit(1))

    def announce(self, now: datetime, limit: int = AT_ONCE) -> int:
        """Announce the newest threshold that each of the first `limit` versions has passed; return how many were due.

        To be repeated until that is less than `limit`.
        """
        due = select(vault_versions.c.id).where(vault_versions.c.due_at <= now)
        rows = self._connection.scalars(due.order_by(vault_versions.c.due_at).limit(limit)).all()
        for version_row in sorted(rows):
            self._announce(self._versions.lock(version_row), now)
        return len(rows)

    def note_end(self, version: VersionRecord, now: datetime) -> None:
        """Announce that the term of a version, whose row is locked, has ended, unless that was noted before."""
        if version.ended_at is None:
            self._announce(version, now)

    def _announce(self, version: VersionRecord, now: datetime) -> None:
        """Announce what is due of a version whose row is locked. Another daemon may have done so before it was locked."""
        row = self._schedule(version)
        if row.due_at is None or row.due_at > now or row.not_after is None:
            return
        term = Term(row.term_from, row.not_after)
        *earlier, threshold = term.passed(now, row.due_at)
        ended = threshold == END
        told = {
            "not_after": format_time(row.not_after),
            "threshold": threshold,
            "left_s": max(0, int((row.not_after - now).total_seconds())),
            "skipped": earlier,
        }
        self._events.tell("vault.expired" if ended else "vault.expiring", version, now, **told)
        noted: dict[str, Any] = {"due_at": term.next_due(now)}
        if ended:
            noted["ended_at"] = now
        self._connection.execute(
            update(vault_versions).where(vault_versions.c.id == version.row).values(noted)
        )

    def _schedule(self, version: VersionRecord) -> Row[Any, Any, Any]:
        query = select(vault_versions.c.due_at, vault_versions.c.not_after, vault_versions.c.term_from)
        return self._connection.execute(query.where(vault_versions.c.id == version.row)).one()

"""The records of counted uses: each use that the store has counted comes to stand in this daemon's log, exactly once.

The transaction that counts a use also keeps it in the store. When its record is on disk, a later transaction removes it
there. So what a daemon that was killed has counted and not recorded is found in the store, and recorded late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.uses import Found, find_uses
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import CountedUse, Transaction, UseId
from hsmd.errors import AuditFailure
from hsmd.purposes import Purpose
from hsmd.transparency.lines import format_time
from hsmd.transparency.records import GRANT_USED_EVENT


class UseRecords:
    """The counted uses that the store still keeps, as far as this process knows them. Not to be settled while one is counted."""

    def __init__(self, origin: str, audit: AuditLog, cache: SnapshotCache) -> None:
        self.origin = origin
        self.in_doubt = True
        """Whether the store may keep uses that are not known here: of a process before, or of a commit without an answer."""
        self._began = False
        """Whether what the process before left was settled; nothing is counted earlier."""
        self._audit = audit
        self._cache = cache
        self._size_at_start = audit.size
        self._new: list[CountedUse] = []
        self._late: list[tuple[CountedUse, bool]] = []
        """With whether the attempt is in the log."""
        self._recorded: dict[UseId, int] = {}
        """Index of the record."""

    @property
    def unsettled(self) -> bool:
        """Whether there is something to settle."""
        return bool(self.in_doubt or self._new or self._late or self._recorded)

    def add(self, use: CountedUse) -> None:
        """A use was counted: the next commit records it."""
        self._new.append(use)

    def commit(self) -> None:
        """Record what was counted, with everything else that was noted. Raises AuditFailure; a later call then records it."""
        indices = {use.id: self._note(use) for use in self._new}
        indices |= {use.id: self._note_late(use, has_attempt) for use, has_attempt in self._late}
        new, self._new = self._new, []
        try:
            self._audit.commit()
        except AuditFailure:
            self._late += [(use, True) for use in new]
            raise
        self._late = []
        self._recorded |= indices

    def in_log(self) -> frozenset[UseId]:
        """Uses that the store need not keep: their records are on disk."""
        size = self._audit.durable_size
        return frozenset(use for use, index in self._recorded.items() if index < size)

    def removed(self, uses: Iterable[UseId]) -> None:
        """The store keeps these no more."""
        for use in uses:
            self._recorded.pop(use, None)

    async def settle(self) -> None:
        """Record every use that the store keeps and the log does not have, and remove from the store what is recorded.

        Raises StoreFailure or AuditFailure; it is then to be repeated.
        """
        in_log = self.in_log()

        def change(tx: Transaction) -> list[CountedUse]:
            tx.counted_uses.remove(in_log)
            return tx.counted_uses.all_of(self.origin) if self.in_doubt else []

        kept = await self._cache.change_unversioned(change)
        self.removed(in_log)
        if self.in_doubt:
            await self._take_over(kept, in_log)
            self.in_doubt, self._began = False, True
        self.commit()

    async def _take_over(self, kept: list[CountedUse], gone: frozenset[UseId]) -> None:
        """Find out which of the kept uses the log has."""
        known = (
            gone | self._recorded.keys() | {use.id for use in self._new} | {use.id for use, _ in self._late}
        )
        unknown = [use for use in kept if use.id not in known]
        if not unknown:
            return
        attempts = {use.wanted.attempt: use.wanted.key_digest.hex() for use in unknown}
        found = await asyncio.to_thread(self._find, attempts)
        for use in unknown:
            record = found.records.get(use.wanted.attempt)
            if record is not None:
                self._recorded[use.id] = record
            else:
                self._late.append((use, use.wanted.attempt in found.attempts))

    def _find(self, attempts: dict[int, str]) -> Found:
        try:
            with self._audit.view() as view, FilesAtHand(view) as files:
                return find_uses(files, attempts, self._audit.size if self._began else self._size_at_start)
        except OSError as problem:
            raise AuditFailure(detail=f"the audit log cannot be read: {problem}") from problem

    def _note(self, use: CountedUse) -> int:
        wanted = use.wanted
        return self._audit.event(
            GRANT_USED_EVENT,
            wanted.client,
            attempt=wanted.attempt,
            grant=wanted.grant,
            key=wanted.key_digest.hex(),
            number=use.number,
        )

    def _note_late(self, use: CountedUse, has_attempt: bool) -> int:
        """The record of a use that was counted earlier. An attempt that the log has lost cannot be named by its index."""
        wanted = use.wanted
        attempt = {"attempt": wanted.attempt} if has_attempt else {"purpose": _label(wanted.purpose)}
        return self._audit.event(
            GRANT_USED_EVENT,
            wanted.client,
            counted_at=format_time(use.counted_at),
            grant=wanted.grant,
            key=wanted.key_digest.hex(),
            number=use.number,
            **attempt,
        )


def _label(code: int) -> str:
    try:
        return Purpose(code).label
    except ValueError:
        return f"unknown-{code}"

"""The records of counted acquisitions: each that the store has counted comes to stand in this daemon's log, exactly once.

The transaction that counts one also keeps it in the store, until its record is on disk. So what a daemon that was killed
has counted and not recorded is found in the store, and recorded late, with the time of the count.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterable

from hsmd import observe
from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.tickets import find_tickets
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import Acquisition, AcquisitionId, Transaction
from hsmd.errors import AuditFailure, HsmdError
from hsmd.transparency.lines import format_time
from hsmd.transparency.records import VAULT_ACQUIRED_EVENT

SETTLE_S = 1.0
"""Acquisitions that no later transaction removes from the store are removed after this time."""
CLOSE_TIMEOUT_S = 2.0

log = observe.logger()


class AcquisitionRecords:
    """The counted acquisitions that the store still keeps, as far as this process knows them. Belongs to the event loop."""

    def __init__(self, origin: str, audit: AuditLog, cache: SnapshotCache) -> None:
        self.origin = origin
        self.in_doubt = True
        """Whether the store may keep some that are not known here: of a process before, or of a commit without an answer."""
        self._audit = audit
        self._cache = cache
        self._under_way: set[str] = set()
        """Tickets of those that are being counted."""
        self._unrecorded: list[Acquisition] = []
        """Counted, and the log could not be written."""
        self._recorded: dict[AcquisitionId, int] = {}
        """Index of the record."""
        self._rollbacks = audit.rollbacks
        self._settling_fails = False
        self.outcomes: Counter[str] = Counter()
        """How many were `given` and `refused` since the start."""

    # --- one acquisition ---

    def begin(self) -> str:
        """The ticket of an acquisition that is about to be counted: no record before the index in it has it."""
        ticket = f"{self._audit.size}-{secrets.token_hex(16)}"
        self._under_way.add(ticket)
        return ticket

    def record(self, ticket: str, acquisition: Acquisition) -> None:
        """Note the record of a counted acquisition, in the turn of the event loop in which its request ends.

        It is written and synced with the end of the request (`Dispatcher`), without which no answer leaves. If that fails,
        it is recorded late. Raises AuditFailure.
        """
        self.outcomes["refused" if acquisition.refusal else "given"] += 1
        try:
            self._recorded[acquisition.id] = self._note(acquisition)
        except AuditFailure:
            self._unrecorded.append(acquisition)
            raise
        finally:
            self._under_way.discard(ticket)

    def failed(self, ticket: str, *, in_doubt: bool) -> None:
        """An acquisition was not counted, or (`in_doubt`) it is not known whether it was."""
        self._under_way.discard(ticket)
        self.in_doubt |= in_doubt

    def in_log(self) -> frozenset[AcquisitionId]:
        """Those that the store need not keep, because their records are on disk."""
        if self._rollbacks != self._audit.rollbacks:  # which of them were discarded is looked up in the log
            self._rollbacks = self._audit.rollbacks
            self._recorded.clear()
            self.in_doubt = True
        size = self._audit.durable_size
        return frozenset(each for each, index in self._recorded.items() if index < size)

    def removed(self, ids: Iterable[AcquisitionId]) -> None:
        """The store keeps these no more."""
        for each in ids:
            self._recorded.pop(each, None)

    # --- those that were left over ---

    async def follow(self) -> None:
        """Settle what the last run of this daemon left, and what was recorded since; runs until cancelled."""
        while True:
            await self.try_settle()
            await asyncio.sleep(SETTLE_S)

    async def close(self) -> None:
        """Have the store forget what is recorded; one that does not answer keeps it until the next start."""
        if self.in_log():
            await asyncio.wait([asyncio.ensure_future(self.try_settle())], timeout=CLOSE_TIMEOUT_S)

    async def try_settle(self) -> None:
        """Settle, unless there is nothing to settle; a failure is logged once, and the next call tries again."""
        if not (self.in_doubt or self._unrecorded or self._recorded):
            return
        try:
            await self._settle()
        except HsmdError as error:
            if not self._settling_fails:
                log.warning("vault.not_settled", error=error.text)
            self._settling_fails = True
        else:
            self._settling_fails = False

    async def _settle(self) -> None:
        """Record all that the store keeps and the log does not have, and remove from the store what is recorded."""
        in_log, in_doubt = self.in_log(), self.in_doubt

        def change(tx: Transaction) -> list[Acquisition]:
            tx.vault_acquisitions.remove(in_log)
            return tx.vault_acquisitions.all_of(self.origin) if in_doubt else []

        self.in_doubt = False
        try:
            kept = await self._cache.change_unversioned(change)
            self.removed(in_log)
            await self._take_over(kept, in_log)
        except BaseException:
            self.in_doubt |= in_doubt
            raise
        await self._record_late()

    async def _take_over(self, kept: list[Acquisition], gone: frozenset[AcquisitionId]) -> None:
        """Find out which of those that the store keeps are in the log."""
        known = gone | self._recorded.keys() | {each.id for each in self._unrecorded}
        unknown = [each for each in kept if each.id not in known and each.ticket not in self._under_way]
        if not unknown:
            return
        found = await asyncio.to_thread(self._find, [each.ticket for each in unknown])
        for each in unknown:
            if (index := found.get(each.ticket)) is not None:
                self._recorded[each.id] = index
            else:
                self._unrecorded.append(each)

    def _find(self, tickets: list[str]) -> dict[str, int]:
        try:
            with self._audit.view() as view, FilesAtHand(view) as files:
                return find_tickets(files, VAULT_ACQUIRED_EVENT, tickets)
        except OSError as problem:
            raise AuditFailure(detail=f"the audit log cannot be read: {problem}") from problem

    async def _record_late(self) -> None:
        late, self._unrecorded = self._unrecorded, []
        if not late:
            return
        indices = {each.id: self._note(each, counted_at=format_time(each.counted_at)) for each in late}
        try:
            await self._audit.commit_durable()
        except AuditFailure:
            self._unrecorded += late
            raise
        self._recorded |= indices

    def _note(self, each: Acquisition, **more: str) -> int:
        outcome: dict[str, str | int] = (
            {"refusal": each.refusal} if each.refusal else {"released": each.released}
        )
        return self._audit.event(
            VAULT_ACQUIRED_EVENT,
            each.owner,
            owner=each.owner,
            record=each.record,
            version=each.version,
            request=each.request,
            ticket=each.ticket,
            **outcome,
            **more,
        )

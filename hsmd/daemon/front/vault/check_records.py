"""The records of checks: in the audit log each by itself up to a rate, then in sums; in the store in sums for the owner."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import CheckCount
from hsmd.errors import AuditFailure, HsmdError, Overloaded

CHECKED_EVENT = "vault.checked"
FLUSH_S = 1.0
MAX_SUMS = 5_000
"""Sums that wait for the store, or for the log; while there are more, checks are refused, so none is without a sum."""
AT_ONCE = 1_000
"""Sums of one transaction."""
PRUNE_EVERY = timedelta(hours=1)
PRUNE_AT_ONCE = 1_000

log = observe.logger()

_Name = tuple[str, str, str, str]
"""Asker, owner, record and verdict."""


class CheckRecords:
    """Belongs to the event loop. A kill loses the sums of the last second; what has a record of its own, it does not lose."""

    def __init__(
        self,
        audit: AuditLog,
        cache: SnapshotCache,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._audit = audit
        self._cache = cache
        self._clock = clock
        self._now = now
        self._rate = RecordRate()
        self._for_log: dict[_Name, int] = {}
        self._for_store: dict[tuple[object, ...], CheckCount] = {}
        self._flushing = asyncio.Lock()
        self._failing = False
        self._pruned_at: datetime | None = None
        self.verdicts: Counter[str] = Counter()
        """How many checks had each verdict since the start."""

    def check_room(self) -> None:
        """Raises Overloaded while the store, or the log, takes no sums."""
        if max(len(self._for_store), len(self._for_log)) >= MAX_SUMS:
            raise Overloaded.retry_in(FLUSH_S)

    def note(self, owner: str, key: str, count: CheckCount) -> None:
        """Record one check, before its answer leaves; `key` is the digest in hex. Raises AuditFailure."""
        self.verdicts[count.verdict] += 1
        name = (count.asker, owner, count.record, count.verdict)
        if self._rate.take(count.asker, self._clock()):
            self._event(name, 1, key)
            self._audit.commit()
        else:
            self._for_log[name] = self._for_log.get(name, 0) + 1
        if count.owner_row:
            self._add(count)

    def _add(self, count: CheckCount) -> None:
        sum_of = (
            count.owner_row,
            count.asker,
            count.asker_row,
            count.record,
            count.verdict,
            count.at.date(),
        )
        before = self._for_store.get(sum_of)
        self._for_store[sum_of] = (
            count if before is None else replace(count, count=before.count + count.count)
        )

    def _event(self, name: _Name, count: int, key: str = "") -> None:
        asker, owner, record, verdict = name
        named = {"record": record} if record else {}
        asked = {"key": key} if key else {}
        self._audit.event(CHECKED_EVENT, asker, owner=owner, verdict=verdict, count=count, **named, **asked)

    async def follow(self) -> None:
        """Hand the sums to log and store each second; runs until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Hand over what has been summed up. What cannot be written waits."""
        self._flush_to_log()
        async with self._flushing:
            try:
                await self._flush_to_store()
                await self._prune()
            except HsmdError as error:
                if not self._failing:
                    log.warning("vault.check_sums_wait", error=error.text)
                self._failing = True
            else:
                self._failing = False

    def _flush_to_log(self) -> None:
        counts, self._for_log = self._for_log, {}
        if not counts:
            return
        try:
            for name, count in counts.items():
                self._event(name, count)
            self._audit.commit()
        except AuditFailure as error:
            log.warning("vault.check_sums_wait", error=error.text)
            for name, count in counts.items():
                self._for_log[name] = self._for_log.get(name, 0) + count

    async def _flush_to_store(self) -> None:
        while self._for_store:
            names = list(self._for_store)[:AT_ONCE]
            counts = [self._for_store.pop(name) for name in names]
            try:
                await self._cache.change_unversioned(lambda tx: tx.vault_check_sums.add(counts))  # noqa: B023
            except HsmdError:  # not when the task is cancelled: the transaction goes on in its thread then
                for count in counts:
                    self._add(count)
                raise

    async def _prune(self) -> None:
        """Forget old sums: once an hour, and again the next second while there are many."""
        now = self._now()
        if self._pruned_at is not None and now - self._pruned_at < PRUNE_EVERY:
            return
        if await self._cache.change_unversioned(lambda tx: tx.vault_check_sums.prune(now)) < PRUNE_AT_ONCE:
            self._pruned_at = now

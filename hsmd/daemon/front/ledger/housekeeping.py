"""Removes events that are no longer kept: one daemon at a time does it, for all that share the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hsmd import observe
from hsmd.daemon.store import Store
from hsmd.errors import StoreFailure

CHECK_S = 60.0
"""How often a daemon tries to get the turn."""
TURN = timedelta(minutes=5)
"""The turn is not given back, so the events are pruned about this often, by whichever daemon asks first."""
STEPS = 1_000
"""Transactions in one turn, each of which removes a limited number of rows: enough for a million events."""
LEASE = "events.prune"

log = observe.logger()


class Housekeeping:
    """One for each daemon; `holder` identifies it in the store."""

    def __init__(
        self, store: Store, holder: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._holder = holder
        self._now = now

    async def follow(self) -> None:
        """Prune whenever it is this daemon's turn; runs until cancelled."""
        while True:
            try:
                await self.prune()
            except StoreFailure as error:
                log.warning("events.not_pruned", error=error.text)
            await asyncio.sleep(CHECK_S)

    async def prune(self) -> int:
        """Remove what is not to be kept if it is this daemon's turn; return how many rows that were."""
        if not await asyncio.to_thread(self._take_turn):
            return 0
        removed = 0
        for _ in range(STEPS):
            step = await asyncio.to_thread(
                self._store.change, lambda tx: tx.events.prune(self._now()), versioned=False
            )
            removed += step
            if not step:
                break
        return removed

    def _take_turn(self) -> bool:
        """Reads first, so that the other daemons write nothing while it is not their turn."""
        now = self._now()
        held = self._store.query(lambda tx: tx.leases.find(LEASE))
        if held is not None and held.until > now:
            return False
        taken = self._store.change(
            lambda tx: tx.leases.acquire(LEASE, self._holder, now, TURN), versioned=False
        )
        return taken is not None

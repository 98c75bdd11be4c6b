"""Announces that terms of versions end: at 30, 7, 1 and 0 days, or at fractions of a short term; each threshold once.

Which threshold of a version comes next is in its row, and is advanced in the transaction that announces it. So neither
a restart nor a clock that is set back, nor several daemons at once, make an announcement twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from hsmd import observe
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.errors import HsmdError

CHECK_S = 60.0
"""Longest time between two checks: another daemon may have stored a version with a short term."""
SHORTEST_S = 0.5
AT_ONCE = 50
"""Versions of one transaction."""
REST_S = 0.05
"""Time between two such transactions, so that thousands of terms that end at once leave others their turn."""

log = observe.logger()


class Terms:
    """One for each daemon. `appended` is called when there are new events."""

    def __init__(
        self,
        cache: SnapshotCache,
        appended: Callable[[], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._appended = appended
        self._now = now
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A version was stored, or has another term: the next announcement may be due earlier."""
        self._changed.set()

    async def follow(self) -> None:
        """Announce when a threshold is passed; runs until cancelled."""
        while True:
            self._changed.clear()
            wait_s = CHECK_S
            try:
                wait_s = await self.check()
            except HsmdError as error:
                log.warning("vault.terms_wait", error=error.text)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SHORTEST_S)

    async def check(self) -> float:
        """Announce what has been passed, for some versions; return the seconds until the next threshold, or check."""
        if await self._announce() >= AT_ONCE:
            return REST_S
        due = await self._cache.read(lambda tx: tx.vault_announcements.next_due())
        if due is None:
            return CHECK_S
        return max(SHORTEST_S, min(CHECK_S, (due - self._now()).total_seconds()))

    async def _announce(self) -> int:
        """Announce for some versions; return for how many."""
        now = self._now()
        count = await self._cache.change_unversioned(lambda tx: tx.vault_announcements.announce(now, AT_ONCE))
        if count:
            self._appended()
        return count

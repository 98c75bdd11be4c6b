"""Tells owners that a restore holds their keys: at the first start after it, each owner once, whatever happens to daemons.

That a key is held stands in its row, and that it was told in the ledger, with the epoch that the restore has begun. So
each daemon looks through the owners when it starts, in pages, and none repeats what another one, or an earlier start, has told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from hsmd import observe
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.errors import HsmdError

AT_ONCE = 100
"""Owners of one transaction."""
REST_S = 0.05
"""Time between two such transactions, so that 10,000 owners leave others their turn."""
AGAIN_S = 10.0
"""Time after which a store that could not be asked is asked again."""

log = observe.logger()


class Holds:
    """One for each daemon. `appended` is called when there may be new events."""

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
        self._after: int | None = 0
        """Row id of the owner behind whom the next page begins; None behind the last."""

    async def follow(self) -> None:
        """Look at every owner once, and end."""
        while self._after is not None:
            pause_s = REST_S
            try:
                self._after = await self._tell(self._after)
            except HsmdError as error:
                log.warning("vault.holds_wait", error=error.text)
                pause_s = AGAIN_S
            if self._after is not None:
                await asyncio.sleep(pause_s)

    async def _tell(self, after: int) -> int | None:
        """Tell the owners of one page; return where the next one begins."""
        found = await self._cache.read(lambda tx: tx.vault_keys.held(after, AT_ONCE))
        if found.keys:
            now = self._now()
            await self._cache.change_unversioned(lambda tx: tx.vault_keys.tell_held(after, AT_ONCE, now))
            self._appended()
        return found.last

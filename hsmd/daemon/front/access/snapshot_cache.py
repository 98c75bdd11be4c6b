"""The snapshot cache: the store's contents as the front process uses them, brought up to date after every change.

Key operations read an immutable snapshot and never the store. Changes by other daemons that share the store are noticed by
polling its version, so a grant that was removed elsewhere has no effect here after `POLL_S` at the latest. Only what has changed
is read, in a thread that pauses so often that the event loop, which shares the interpreter with it, hardly waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from hsmd import observe
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.store import CountedUse, Difference, NotCounted, Store, Transaction, UseId, WantedUse
from hsmd.errors import HsmdError, StoreFailure
from hsmd.system.client_threads import in_thread
from hsmd.system.intake import for_all_clients

POLL_S = 1.0
WORK_S = 0.001
"""After so much work the reading thread pauses: as long as that, the event loop may wait for the interpreter."""
PAUSE_S = 0.002

R = TypeVar("R")
log = observe.logger()


class SnapshotCache:
    """Holds the current snapshot; the front process makes its store calls here, in threads."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._now = now
        self._listeners: list[Callable[[Difference], None]] = []
        self._refreshing = asyncio.Lock()
        self._begun = self._done = 0
        """Numbers of the newest refresh that has begun, and of the newest one that was successful."""
        self._clock = clock
        self._seen_at = clock()
        whole = self._difference(None, lambda: None)
        self.snapshot = Snapshot.of(whole)

    def on_change(self, changed: Callable[[Difference], None]) -> None:
        """Call `changed` whenever there is another snapshot, with its difference from the one before."""
        self._listeners.append(changed)

    async def change(self, action: Callable[[Transaction], R]) -> R:
        """Run an action in a write transaction; when this returns, the snapshot shows the change.

        Raises what `action` raises, and StoreFailure if the store was lost after the change; `follow` catches up then.
        """
        result: R = await in_thread(self._store.change, action)
        await self.refresh()
        return result

    async def change_unversioned(self, action: Callable[[Transaction], R]) -> R:
        """Run an action in a write transaction that changes nothing that the snapshot holds."""
        result: R = await in_thread(self._store.change, action, versioned=False)
        return result

    async def count_uses(
        self, uses: Sequence[WantedUse], recorded: Collection[UseId], now: datetime
    ) -> list[CountedUse | NotCounted]:
        """Decide about each of these uses, and count it (LimitedGrants.count); forget those that are in the log."""

        def count(tx: Transaction) -> list[CountedUse | NotCounted]:
            tx.counted_uses.remove(recorded)
            return tx.limited_grants.count(uses, now)

        return await self.change_unversioned(count)

    async def read(self, action: Callable[[Transaction], R]) -> R:
        """Run an action in a read transaction."""
        result: R = await in_thread(self._store.query, action)
        return result

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was known to be current."""
        return self._clock() - self._seen_at

    async def refresh(self) -> None:
        """Read what has changed in the store until now. Those who wait for a refresh that has not begun share it."""
        wanted = self._begun + 1
        async with self._refreshing:
            if self._done >= wanted:
                return
            self._begun += 1
            known = self.snapshot
            difference, snapshot = await asyncio.to_thread(self._load, known)
            if snapshot.standing != known.standing:
                self.snapshot = snapshot
                for_all_clients().run(self._tell, difference)
            self._done = self._begun

    def _tell(self, difference: Difference) -> None:
        """Call the listeners. What they do is not for the client whose change was the reason."""
        for changed in self._listeners:
            changed(difference)

    def _load(self, known: Snapshot) -> tuple[Difference, Snapshot]:
        pause = Breath()
        difference = self._difference(known, pause)
        return difference, known.updated(difference, pause)

    def _difference(self, known: Snapshot | None, pause: Callable[[], None]) -> Difference:
        difference = self._store.difference(None if known is None else known.standing, pause)
        if difference.history_behind:  # a daemon of an earlier release made, renamed or destroyed a key
            try:
                self._store.change(lambda tx: tx.history.catch_up(self._now()))
            except HsmdError as error:  # the next change of a key, or the next start, tries again
                log.warning("store.history-behind", error=error.text)
        return difference

    async def follow(self) -> None:
        """Refresh whenever the store's version changes; runs until cancelled.

        While the store cannot be reached the snapshot stays as it is.
        """
        away = False
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if await asyncio.to_thread(self._store.version) != self.snapshot.version:
                    await self.refresh()
                self._seen_at = self._clock()
                away = False
            except StoreFailure as error:
                if not away:
                    log.error("store.away", error=error.text)
                away = True


class Breath:
    """Lets other threads run after each `WORK_S`: to be called after each small step of long work."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if time.perf_counter() - self._since >= WORK_S:
            time.sleep(PAUSE_S)
            self._since = time.perf_counter()

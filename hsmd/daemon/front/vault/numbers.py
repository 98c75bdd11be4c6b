"""What metrics tell of the vault: counters of this process, and what waits in the store, which is counted each minute."""

from __future__ import annotations

import asyncio

from hsmd import observe
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault.acquisition_records import AcquisitionRecords
from hsmd.daemon.front.vault.check_records import CheckRecords
from hsmd.daemon.store import Transaction
from hsmd.errors import HsmdError
from hsmd.protocol.messages import VaultNumbers

COUNT_S = 60.0

log = observe.logger()


class Numbers:
    """Belongs to the event loop."""

    def __init__(self, cache: SnapshotCache, acquisitions: AcquisitionRecords, checks: CheckRecords) -> None:
        self._cache = cache
        self._acquisitions = acquisitions
        self._checks = checks
        self._waiting = 0
        self._held = 0
        self._overloaded = 0

    def note_overload(self) -> None:
        """A check was refused because there were too many."""
        self._overloaded += 1

    def read(self) -> VaultNumbers:
        """The numbers now."""
        outcomes = self._acquisitions.outcomes
        return VaultNumbers(
            outcomes["given"],
            outcomes["refused"],
            dict(self._checks.verdicts),
            self._overloaded,
            self._waiting,
            self._held,
        )

    async def follow(self) -> None:
        """Count what waits each minute; runs until cancelled. A store that is away leaves the last numbers."""
        while True:
            try:
                self._waiting, self._held = await self._cache.read(_waiting)
            except HsmdError as error:
                log.debug("vault.not_counted", error=error.text)
            await asyncio.sleep(COUNT_S)


def _waiting(tx: Transaction) -> tuple[int, int]:
    return tx.vault_keys.count_pending(), tx.vault_keys.count_held()

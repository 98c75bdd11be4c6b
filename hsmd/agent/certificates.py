"""Hands certificates on to the servers of this host: what is new in the cache is written as versions for root's side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from hsmd import observe
from hsmd.agent.cache import Cache, CachedKey
from hsmd.client.keyref import KeyReference
from hsmd.deployment.versions import CertificateVersions, Offer, Outcome

AGAIN_S = 60.0
"""Interval at which what was refused or failed is tried again: a certificate becomes valid, a disk has room."""
AT_MOST_EVERY_S = 1.0
REST = 3
"""Writing many certificates takes time: pause this many times as long as it took before it is done again,"""
MOST_PAUSE_S = 20.0
"""but no longer than this."""

log = observe.logger()


class Certificates:
    """Keeps the versions up to date with the cache, in a thread."""

    def __init__(
        self,
        cache: Cache,
        versions: CertificateVersions,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._versions = versions
        self._now = now
        self._stopping = threading.Event()
        self._writing: asyncio.Task[None] | None = None
        self._done: dict[str, CachedKey] = {}
        """What is current, or has no certificate."""
        self._told: dict[str, tuple[str, str]] = {}
        """What was refused or failed, as it was last logged: version and reason."""
        self._failed = False
        self._announced = False

    async def keep(self) -> None:
        """Write at the start, after changes of the cache, and at intervals what could not be written before."""
        self._cache.unpublished.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self._told or self._failed else None):
                    await self._cache.unpublished.wait()
            self._cache.unpublished.clear()
            began = time.monotonic()
            self._writing = asyncio.create_task(self.write())
            await asyncio.shield(self._writing)
            await asyncio.sleep(min(MOST_PAUSE_S, max(AT_MOST_EVERY_S, (time.monotonic() - began) * REST)))

    async def settle(self) -> None:
        """Return when nothing is written any more; what is left out is written by the next start."""
        self._stopping.set()
        if self._writing is not None:
            await self._writing

    async def write(self) -> None:
        """Write what has changed. Failures are logged."""
        keys, complete = self._cache.keys(), self._cache.complete
        try:
            await asyncio.to_thread(self._write, keys, complete)
        except OSError as error:
            log.error("certificates.not_written", path=error.filename, error=f"{error.strerror or error}")
            self._failed = True

    def _write(self, keys: list[CachedKey], complete: bool) -> None:
        if not complete:
            return
        self._failed = False
        offered = [key for key in keys if self._done.get(key.info.name) is not key]
        outcome = self._versions.write(
            [_offer(key) for key in offered if key.chain], self._now(), self._stopping.is_set
        )
        self._note(offered, outcome)
        self._remove_others(keys)
        # At the start in any case: a crash may have come between switch and announcement.
        if outcome.switched or (not self._announced and keys):
            self._versions.announce()
            self._announced = True
        if outcome.switched:
            log.info("certificates.switched", count=len(outcome.switched))

    def _note(self, offered: list[CachedKey], outcome: Outcome) -> None:
        """Remember what is done, and log what is not, once for each version and reason."""
        done = {*outcome.current, *outcome.switched}
        by_name = {key.info.name: key for key in offered}
        for key in offered:
            name = key.info.name
            if not key.chain or name in done:
                self._done[name] = key
                self._told.pop(name, None)
        for event, faults in (
            ("certificates.refused", outcome.refused),
            ("certificates.not_written", outcome.failed),
        ):
            for name, fault in faults.items():
                told = (_offer(by_name[name]).version, fault)
                if self._told.get(name) != told:
                    self._told[name] = told
                    log.warning(event, key_name=name, error=fault)

    def _remove_others(self, keys: list[CachedKey]) -> None:
        names = {key.info.name for key in keys}
        gone = [name for name in self._done if name not in names]
        if gone or not self._announced:
            self._versions.keep_only(names)
        for name in gone:
            del self._done[name]
        for name in [name for name in self._told if name not in names]:
            del self._told[name]


def _offer(key: CachedKey) -> Offer:
    return Offer(KeyReference(key.info.name, key.info.public_key), key.chain)

"""Reports certificates that are about to end, each threshold once, whichever of the daemons that share the store notices it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush

from cryptography import x509

from hsmd import observe
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.ledger.producers import digest_of_leaf
from hsmd.daemon.store import CertificateMark, Difference, Transaction
from hsmd.errors import HsmdError, NotFound
from hsmd.transparency.lines import format_time

CHECK_S = 60.0
"""Longest time between two checks."""
SHORTEST_S = 0.5
"""Shortest time between two checks, however often the store changes."""
AHEAD = timedelta(days=30)
"""No threshold is earlier than this before the end."""
LONG = timedelta(days=60)
"""A certificate that is valid for less has thresholds that are parts of that time."""
AT_ONCE = 100
"""Certificates of one transaction."""
REST_S = 0.05
"""Time between two such transactions, so that thousands of certificates that end at once leave others their turn."""
MOST_REPLACED = 1_000
"""Certificates that were replaced and are still in the heap, beside as many as there are, before it is made anew."""

log = observe.logger()


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is needed to know of a certificate: digest in hex, and the time in which it is valid."""

    digest: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, chain_pem: str) -> Leaf:
        """The first certificate of a chain."""
        leaf = x509.load_pem_x509_certificate(chain_pem.encode())
        return cls(digest_of_leaf(chain_pem), leaf.not_valid_before_utc, leaf.not_valid_after_utc)

    @property
    def thresholds(self) -> tuple[tuple[datetime, str], ...]:
        """When each threshold is passed, and its name, in order."""
        term = self.not_after - self.not_before
        days = timedelta(days=1)
        parts = (
            ((30 * days, "30-days"), (7 * days, "7-days"), (days, "1-day"))
            if term >= LONG
            else ((term / 3, "third"), (term / 10, "tenth"))
        )
        return (*((self.not_after - left, name) for left, name in parts), (self.not_after, "end"))

    def next_threshold(self, now: datetime) -> datetime | None:
        """When the next threshold is passed; None if all are."""
        return next((at for at, _ in self.thresholds if at > now), None)

    def passed(self, now: datetime) -> str:
        """The newest threshold that was passed; empty if none was."""
        return next((name for at, name in reversed(self.thresholds) if at <= now), "")


Due = tuple[datetime, int, str]
"""When to look at a certificate, the row id of its key, and its mark: a certificate that was replaced has another one."""


class Endings:
    """One for each daemon. `appended` is called when there is a new event.

    A heap holds the time of the next look at each certificate. A change of the store costs as much as it has changed
    certificates, and a check as much as are due; no check goes through all of them.
    """

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
        self._coming: list[Due] = []
        self._watch(cache.snapshot.certificates())
        cache.on_change(self._store_changed)

    def _store_changed(self, difference: Difference) -> None:
        changed = {row: found for row, found in difference.certificates.items() if found is not None}
        if not changed:
            return
        certificates = self._cache.snapshot.certificates()
        if difference.whole or len(self._coming) > MOST_REPLACED + 2 * len(certificates):
            self._coming.clear()
            self._watch(certificates)
        else:
            self._watch(changed.items())
        self._changed.set()

    def _watch(self, certificates: Iterable[tuple[int, CertificateMark]]) -> None:
        self._coming += [(found.not_after - AHEAD, row, found.mark) for row, found in certificates]
        heapify(self._coming)

    async def follow(self) -> None:
        """Check when a threshold is passed or certificates have changed; runs until cancelled."""
        while True:
            self._changed.clear()
            wait_s = CHECK_S
            try:
                wait_s = await self.check()
            except HsmdError as error:
                log.warning("events.endings_wait", error=error.text)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SHORTEST_S)

    async def check(self) -> float:
        """Report what has been passed and was not reported; return the seconds until the next threshold, or check.

        The ledger tells apart what was reported before, by whichever daemon.
        """
        now = self._now()
        while self._coming and self._coming[0][0] <= now:
            due = [
                heappop(self._coming) for _ in range(AT_ONCE) if self._coming and self._coming[0][0] <= now
            ]
            try:
                coming = await self._report(due, now)
            except HsmdError:
                coming = due  # the next check tries again
                raise
            finally:
                for each in coming:
                    heappush(self._coming, each)
            if self._coming and self._coming[0][0] <= now:
                await asyncio.sleep(REST_S)
        until_next = (self._coming[0][0] - now).total_seconds() if self._coming else CHECK_S
        return max(SHORTEST_S, min(CHECK_S, until_next))

    async def _report(self, due: Sequence[Due], now: datetime) -> list[Due]:
        """Report the newest threshold that each of these certificates has passed; return when to look at them next."""
        snapshot = self._cache.snapshot
        found = ((snapshot.certificate_of(row), row, mark) for _, row, mark in due)
        standing = {each[0]: (row, mark) for each, row, mark in found if each and each[1].mark == mark}
        leaves = await self._cache.read(lambda tx: _leaves(tx, standing))
        passed = {name: leaf for name, leaf in leaves.items() if leaf.passed(now)}
        if passed:
            await self._cache.change_unversioned(lambda tx: _append(tx, passed, now))
            self._appended()
        return [
            (next_at, *standing[name])
            for name, leaf in leaves.items()
            if (next_at := leaf.next_threshold(now)) is not None
        ]


def _leaves(tx: Transaction, names: Iterable[str]) -> dict[str, Leaf]:
    found = {}
    for name in names:
        try:
            found[name] = Leaf.of(tx.certificates.get(name).chain_pem)
        except NotFound:
            continue  # the key or its certificate was removed; the next snapshot shows that
        except (ValueError, OverflowError) as error:  # stored by a release that could read it
            log.warning("events.certificate_unreadable", key=name, reason=str(error))
    return found


def _append(tx: Transaction, leaves: dict[str, Leaf], now: datetime) -> None:
    for name, leaf in leaves.items():
        try:
            key, readers = tx.keys.get(name), tx.audience_of_key(name)
        except NotFound:
            continue
        threshold = leaf.passed(now)
        payload = {
            "key": key.digest.hex(),
            "certificate": leaf.digest,
            "not_after": format_time(leaf.not_after),
            "threshold": threshold,
            "left_s": max(0, int((leaf.not_after - now).total_seconds())),
        }
        dedup = f"{leaf.digest} {threshold}"
        tx.events.append("certificate.ending", name, readers=readers, payload=payload, now=now, dedup=dedup)

"""Reports certificates that are about to end, each threshold once, whichever of the daemons that share the store notices it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from hsmd import observe
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.ledger.producers import digest_of_leaf
from hsmd.daemon.store import Transaction
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

    def passed(self, now: datetime) -> str:
        """The newest threshold that was passed; empty if none was."""
        return next((name for at, name in reversed(self.thresholds) if at <= now), "")


class Endings:
    """One for each daemon. `appended` is called when there is a new event."""

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
        self._leaves: dict[str, tuple[int, Leaf]] = {}
        self._told: dict[str, str] = {}
        """The newest threshold that is in the ledger, by digest of the certificate."""
        self._changed = asyncio.Event()

    def store_changed(self) -> None:
        """There may be other certificates: check soon."""
        self._changed.set()

    async def follow(self) -> None:
        """Check when a threshold is passed or the store has changed; runs until cancelled."""
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
        """Report what has been passed and is not in the ledger; return the seconds until the next threshold, or check."""
        now = self._now()
        due = {name: mark for name, at, mark in self._cache.snapshot.certificates() if at - now <= AHEAD}
        await self._learn(due)
        new = [
            name
            for name, (_, leaf) in self._leaves.items()
            if self._told.get(leaf.digest) != leaf.passed(now)
        ]
        for begin in range(0, len(new), AT_ONCE):
            await self._report(new[begin : begin + AT_ONCE], now)
        coming = (at for _, leaf in self._leaves.values() for at, _ in leaf.thresholds if at > now)
        return max(SHORTEST_S, min([CHECK_S, *((at - now).total_seconds() for at in coming)]))

    async def _learn(self, due: dict[str, int]) -> None:
        """Read the certificates that are due and were not read, or are others by now; forget those that are not due."""
        self._leaves = {name: found for name, found in self._leaves.items() if due.get(name) == found[0]}
        missing = [name for name in due if name not in self._leaves]
        for begin in range(0, len(missing), AT_ONCE):
            names = missing[begin : begin + AT_ONCE]
            leaves = await self._cache.read(lambda tx, names=names: _leaves(tx, names))  # type: ignore[misc]
            self._leaves |= {name: (due[name], leaf) for name, leaf in leaves.items()}
        known = {leaf.digest for _, leaf in self._leaves.values()}
        self._told = {digest: told for digest, told in self._told.items() if digest in known}

    async def _report(self, names: list[str], now: datetime) -> None:
        leaves = {name: self._leaves[name][1] for name in names}
        reported = {name: leaf for name, leaf in leaves.items() if leaf.passed(now)}
        if reported:
            await self._cache.change_unversioned(lambda tx: _append(tx, reported, now))
            self._appended()
        self._told |= {leaf.digest: leaf.passed(now) for leaf in leaves.values()}


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

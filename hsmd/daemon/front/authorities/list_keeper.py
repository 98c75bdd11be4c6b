"""Keeps revocation lists up to date: signs a new one when two thirds of the time of the present one have passed.

One of the daemons that share the store does it: the one that gets the lease. One whose token is away leaves it to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.certificate_ends import CertificateState
from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import aware_now
from hsmd.daemon.front.authorities.issuing import Issuing
from hsmd.daemon.store import AuthorityRecord, Difference, Lease, Transaction
from hsmd.errors import AuditFailure, HsmdError
from hsmd.protocol.audit_fields import fields_of
from hsmd.protocol.messages import CaCrl, ListEnd
from hsmd.purposes import AuthorityConstraints

CHECK_S = 60.0
"""Longest time between two checks: another daemon may have made an authority."""
SHORTEST_S = 0.5
BUSY_S = 2.0
"""Time until the next check while another daemon signs, or this one has no token to do it with."""
RETRY_S = 60.0
"""Time after which a list that could not be signed is tried again, by this daemon."""
SIGN_S = 10.0
"""Time for one list."""
GRACE_S = 30.0
"""A first list that is not there yet is reported after this time only: it is being signed when an authority is new."""
HOLD = timedelta(minutes=2)
"""How long a daemon that was killed keeps the others waiting."""
DUE_PART = 3
"""A list is replaced in the last third of its time."""
ENDING_PART = 6
"""In the last sixth it is about to end: it should have been replaced by then."""
LEASE = "authorities.lists"
_PAGE = 500

log = observe.logger()


@dataclass(frozen=True, slots=True)
class KeptList:
    """The list of an authority: when the newest one ends (None: there is none), and how long each one lasts."""

    authority: str
    token: str
    ends: datetime | None
    length: timedelta

    def due_at(self, now: datetime) -> datetime:
        """When the next one is to be signed."""
        return now if self.ends is None else self.ends - self.length / DUE_PART

    def state(self, now: datetime) -> CertificateState:
        """How the list stands: as a certificate, which it resembles in that."""
        if self.ends is None or self.ends <= now:
            return CertificateState.ENDED
        soon = now >= self.ends - self.length / ENDING_PART
        return CertificateState.ENDING if soon else CertificateState.VALID


class ListKeeper:
    """One for each daemon; `holder` identifies it in the store, `can_sign` tells whether the token of this name can be used."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        audit: AuditLog,
        issuing: Issuing,
        holder: str,
        can_sign: Callable[[str], bool],
        now: Callable[[], datetime] = aware_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._audit = audit
        self._issuing = issuing
        self._holder = holder
        self._can_sign = can_sign
        self._now = now
        self._clock = clock
        self._retry_at: dict[str, float] = {}
        self._kept: list[KeptList] = []
        self._missing_since: dict[str, float] = {}
        self._changed = asyncio.Event()
        cache.on_change(self._store_changed)

    def first(self, number: int) -> list[ListEnd]:
        """The lists that end first, at most so many; those that have ended, or are not there, come before the others.

        As they were at the last check.
        """
        now, since = self._now(), self._clock() - GRACE_S
        told = [each for each in self._kept if self._missing_since.get(each.authority, since) <= since]
        ordered = sorted(told, key=lambda each: (each.ends is not None, each.ends or now, each.authority))
        return [ListEnd(each.authority, each.state(now).value, each.ends) for each in ordered[:number]]

    def _store_changed(self, difference: Difference) -> None:
        """An authority has its certificate, perhaps, and can sign its first list."""
        if difference.certificates:
            self._changed.set()

    async def follow(self) -> None:
        """Sign what is due; runs until cancelled."""
        while True:
            self._changed.clear()
            wait_s = CHECK_S
            try:
                wait_s = await self.check()
            except HsmdError as error:
                log.warning("authority.lists_wait", error=error.text)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SHORTEST_S)

    async def check(self) -> float:
        """Sign the lists that are due, if it is this daemon's turn; return the seconds until the next check.

        Raises StoreFailure, LeaseLost.
        """
        await self._read()
        if any(map(self._is_to_sign, self._kept)):
            await self._sign_due()
            await self._read()
        now = self._now()
        waits = [self._wait_s(each, now) for each in self._kept]
        return min([CHECK_S, *waits])

    async def _read(self) -> None:
        self._kept = await self._cache.read(_kept)
        known, now = self._missing_since, self._clock()
        self._missing_since = {
            each.authority: known.get(each.authority, now) for each in self._kept if each.ends is None
        }

    def _is_due(self, kept: KeptList) -> bool:
        now = self._now()
        return kept.due_at(now) <= now

    def _is_to_sign(self, kept: KeptList) -> bool:
        """Whether this daemon is to sign a new list now."""
        waiting = self._retry_at.get(kept.authority, 0.0) > self._clock()
        return self._is_due(kept) and not waiting and self._can_sign(kept.token)

    def _wait_s(self, kept: KeptList, now: datetime) -> float:
        if not self._is_due(kept):
            return max(SHORTEST_S, (kept.due_at(now) - now).total_seconds())
        return max(BUSY_S, self._retry_at.get(kept.authority, 0.0) - self._clock())

    async def _sign_due(self) -> None:
        """Reads first, so that daemons write nothing while it is not their turn."""
        now = self._now()
        held = await self._cache.read(lambda tx: tx.leases.find(LEASE))
        if held is not None and held.until > now and held.holder != self._holder:
            return
        lease = await self._cache.change_unversioned(
            lambda tx: tx.leases.acquire(LEASE, self._holder, now, HOLD)
        )
        if lease is None:
            return
        # Another daemon may have signed meanwhile.
        for kept in filter(self._is_to_sign, await self._cache.read(_kept)):
            lease = await self._renewed(lease)
            await self._try_to_sign(kept.authority)
        ended = lease
        with suppress(HsmdError):
            await self._cache.change_unversioned(lambda tx: tx.leases.release(ended))

    async def _renewed(self, lease: Lease) -> Lease:
        now = self._now()
        renewed: Lease = await self._cache.change_unversioned(lambda tx: tx.leases.renew(lease, now, HOLD))
        return renewed

    async def _try_to_sign(self, name: str) -> None:
        """Sign a list as the daemon, recorded like an operator's request for it; a failure is logged, and tried again later."""
        try:
            await self._sign(name)
        except HsmdError as error:
            self._fail(name)
            log.error("authority.list_not_signed", key=name, reason=error.detail or error.text)
        except Exception as error:  # a fault in one list must not end the front, nor other lists
            self._fail(name)
            log.error("authority.list_not_signed", key=name, exc_info=error)
        else:
            self._retry_at.pop(name, None)
            log.info("authority.list_signed", key=name)

    def _fail(self, name: str) -> None:
        self._retry_at[name] = self._clock() + RETRY_S

    async def _sign(self, name: str) -> None:
        fields = fields_of(CaCrl(name))
        begun = self._audit.event("control.begun", "", **fields)
        await self._audit.commit_durable()
        try:
            authority = await self._issuing.read(name)
            await self._issuing.sign_list(DAEMON, authority, self._clock() + SIGN_S)
        except BaseException as error:
            text = error.text if isinstance(error, HsmdError) else "internal fault"
            self._end("control.failed", {**fields, "begun": begun, "error": text})
            raise
        self._end("control.done", {**fields, "begun": begun})

    def _end(self, event: str, fields: dict[str, str | int]) -> None:
        """Record how it ended; a log that cannot be written now is told elsewhere, and does not undo a list."""
        with suppress(AuditFailure):
            self._audit.event(event, "", **fields)
            self._audit.commit()


def _kept(tx: Transaction) -> list[KeptList]:
    """The lists that are kept: of authorities that say where theirs are, or have signed one, and that have a certificate."""
    found: list[KeptList] = []
    after, more = "", True
    while more:
        page = tx.authorities.page(after, _PAGE)
        listing = [each for each in page.items if each.lists_at or each.list_number]
        certified = {each.key for each in tx.certificates.of([each.key for each in listing])}
        found += [_of(tx, each) for each in listing if each.key in certified]
        after, more = (page.items[-1].key if page.items else ""), page.more
    return found


def _of(tx: Transaction, record: AuthorityRecord) -> KeptList:
    seconds = min(record.list_s, AuthorityConstraints.parse(record.constraints).leaf_s)
    return KeptList(record.key, tx.keys.get(record.key).token, record.list_ends, timedelta(seconds=seconds))

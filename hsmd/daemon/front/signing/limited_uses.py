"""Uses of limited grants: the store decides about each and counts it, between the attempt's record and the token.

One transaction at a time runs in a thread; what arrives meanwhile goes into the next one. A use that was counted is
recorded as `grant.used` before the token is asked (use_records.py), and is never repeated. Without an answer of the store
the token is not asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from hsmd import observe
from hsmd.daemon.front.access.rules import Rule
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.signing.use_records import UseRecords
from hsmd.daemon.store import CountedUse, NotCounted, WantedUse
from hsmd.errors import (
    AuditFailure,
    DeadlineExceeded,
    HsmdError,
    InternalFault,
    Overloaded,
    Refused,
    StoreFailure,
)
from hsmd.system.intake import for_all_clients

COUNT_TIMEOUT_S = 5.0
"""The store is taken for away if it does not answer within this time."""
MAX_WAITING = 1_000
"""Uses of all clients that wait for the next transaction ..."""
MAX_WAITING_OF_ONE = 250
"""... and of one client. Each client in turn gets a place in the transaction, so that none can take all."""
MAX_IN_TRANSACTION = 200
"""Uses counted in one transaction, whose locks others wait for."""
SETTLE_S = 1.0
"""Uses that no later transaction removes from the store are removed after this time."""
CLOSE_TIMEOUT_S = 2.0
COUNTED = "the use of the grant is counted, and not repeated"
_MAY_BE_COUNTED = "the store did not answer in time; the use may be counted"
_FAILED = "the store failed; the use is counted only if grant.used follows"
_NOT_ASKED = "the caller has gone, or its deadline has passed; the use is not counted"
_NOT_COUNTED = "the store is away; the use is not counted"
_TICK_S = 0.05
_RETRY_S = 0.1
_RULES = {
    NotCounted.REMOVED: Rule.NO_GRANT,
    NotCounted.EXPIRED: Rule.GRANT_EXPIRED,
    NotCounted.EXHAUSTED: Rule.GRANT_EXHAUSTED,
    NotCounted.HELD: Rule.GRANT_HELD,
}

log = observe.logger()


class Ended(NamedTuple):
    """A request that ends without the token: the result and the reason for the audit log, the error for the caller."""

    request: SigningRequest
    result: str
    reason: str
    error: HsmdError


class _Waiting:
    """The requests that wait for the next transaction, by client."""

    def __init__(self) -> None:
        self._of: dict[str, deque[SigningRequest]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[SigningRequest]:
        return (request for queue in self._of.values() for request in queue)

    def of(self, client: str) -> int:
        """How many requests of this client wait."""
        return len(self._of.get(client, ()))

    def add(self, request: SigningRequest) -> None:
        """Put a request behind those of its client."""
        self._of.setdefault(request.grant.client, deque()).append(request)

    def take(self, most: int) -> list[SigningRequest]:
        """At most so many requests, one of each client in turn."""
        taken: list[SigningRequest] = []
        while self._of and len(taken) < most:
            client, queue = next(iter(self._of.items()))
            taken.append(queue.popleft())
            del self._of[client]
            if queue:
                self._of[client] = queue  # behind the other clients
        return taken


class LimitedUses:
    """Counts uses whose attempts are recorded; each request is then submitted or ended, once."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        records: UseRecords,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        submit: Callable[[list[SigningRequest]], None],
        end: Callable[[list[Ended]], None],
    ) -> None:
        self._cache = cache
        self._records = records
        self._clock = clock
        self._now = now
        self._submit = submit
        self._end = end
        self._waiting = _Waiting()
        self._task: asyncio.Task[None] | None = None
        self._store_is_late = False
        self._settling_fails = False

    def refused(self, requests: list[SigningRequest]) -> list[tuple[SigningRequest, HsmdError]]:
        """Those that must not begin, because the store does not answer or too many wait. Ask before recording them."""
        if self._store_is_late:
            return [(request, _away()) for request in requests]
        refused: list[tuple[SigningRequest, HsmdError]] = []
        room, mine = MAX_WAITING - len(self._waiting), Counter[str]()
        for request in requests:
            client = request.grant.client
            if room <= 0 or self._waiting.of(client) + mine[client] >= MAX_WAITING_OF_ONE:
                refused.append((request, Overloaded.retry_in(_RETRY_S)))
            else:
                room -= 1
                mine[client] += 1
        return refused

    def begin(self, requests: list[SigningRequest]) -> None:
        """Have the store decide about these requests, none of which was `refused`."""
        for request in requests:
            self._waiting.add(request)
        if self._task is None:
            self._start()

    async def follow(self) -> None:
        """Settle what the last run of this daemon left, and what was recorded since; runs until cancelled."""
        while True:
            if self._task is None and self._records.unsettled:
                self._start(settle=True)
            await asyncio.sleep(SETTLE_S)

    async def close(self) -> None:
        """Have the store forget the uses that are recorded; one that does not answer keeps them until the next start."""
        if self._task is None and self._records.in_log():
            self._start(settle=True)
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)

    def _start(self, *, settle: bool = False) -> None:
        # The request that begins this may be a control request, whose client has only a share of the threads.
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(settle), context=for_all_clients())

    async def _run(self, settle: bool) -> None:
        try:
            while settle or self._waiting:
                if (settle or self._records.in_doubt) and not await self._settle():
                    return
                settle = False
                batch = self._next_batch()
                if batch:
                    await self._count(batch)
        finally:
            self._task = None

    async def _settle(self) -> bool:
        """Whether all earlier uses are in the log, or known; otherwise nothing is counted."""
        settling = asyncio.ensure_future(self._records.settle())
        try:
            await self._wait(settling, [])
            settling.result()
        except HsmdError as error:
            if not self._settling_fails:
                log.warning("grant.not_settled", error=error.text)
            self._settling_fails = True
            self._fail_waiting(error)
        except Exception as error:
            log.error("grant.not_settled", exc_info=error)
            self._fail_waiting(InternalFault())
        else:
            self._settling_fails = False
            return True
        return False

    def _fail_waiting(self, error: HsmdError) -> None:
        waiting = self._waiting.take(MAX_WAITING)
        self._end_all(
            waiting, "not-performed", error, "earlier uses are not recorded; this one is not counted"
        )

    def _next_batch(self) -> list[SigningRequest]:
        """The requests that wait for the next transaction, without those whose caller no longer waits."""
        now = self._clock()
        batch = self._waiting.take(MAX_IN_TRANSACTION)
        gone = [request for request in batch if request.abandoned or request.job.deadline <= now]
        self._end_all(gone, "not-performed", DeadlineExceeded(), _NOT_ASKED)
        return [request for request in batch if not request.replied]

    async def _count(self, batch: list[SigningRequest]) -> None:
        snapshot = (
            self._cache.snapshot
        )  # as it is before the store is asked: what it refuses is true of this version
        wanted = [_wanted(request, self._records.origin) for request in batch]
        recorded = self._records.in_log()
        counting = asyncio.ensure_future(self._cache.count_uses(wanted, recorded, self._now()))
        try:
            await self._wait(counting, batch)
            decided = counting.result()
        except HsmdError as error:
            self._records.in_doubt = True
            self._end_all(batch, "not-performed", error, _FAILED)
        except Exception as error:
            self._records.in_doubt = True
            log.error("grant.count_failed", exc_info=error)
            self._end_all(batch, "not-performed", InternalFault(), _FAILED)
        else:
            self._records.removed(recorded)
            self._counted(batch, decided, snapshot)

    async def _wait(self, counting: asyncio.Future[Any], batch: list[SigningRequest]) -> None:
        """Wait for the store, and meanwhile end the requests whose time is over; after a while, all of them."""
        patience = self._clock() + COUNT_TIMEOUT_S
        try:
            while not counting.done():
                await asyncio.wait([counting], timeout=_TICK_S)
                now = self._clock()
                if counting.done():
                    return
                self._end_late(batch, now, _MAY_BE_COUNTED)
                self._end_late(self._waiting, now, _NOT_ASKED)
                if now >= patience and not self._store_is_late:
                    self._store_is_late = True
                    self._end_all(batch, "not-performed", _away(), _MAY_BE_COUNTED)
                    waiting = self._waiting.take(MAX_WAITING)
                    self._end_all(waiting, "not-performed", _away(), _NOT_COUNTED)
        finally:
            self._store_is_late = False

    def _end_late(self, requests: Iterable[SigningRequest], now: float, reason: str) -> None:
        late = [request for request in requests if request.job.deadline <= now]
        self._end_all(late, "not-performed", DeadlineExceeded(), reason)

    def _counted(
        self, batch: list[SigningRequest], decided: Sequence[CountedUse | NotCounted], snapshot: Snapshot
    ) -> None:
        """Record the uses that were counted; submit those whose callers still wait, and end the others."""
        go: list[SigningRequest] = []
        ended: list[Ended] = []
        for request, use in zip(batch, decided, strict=True):
            if isinstance(use, NotCounted):
                snapshot.note_refused(request.grant.limit or 0, _RULES[use])
                if not request.replied:
                    ended.append(Ended(request, "refused", _RULES[use].value, Refused()))
                continue
            self._records.add(use)
            if request.replied:
                continue
            if request.abandoned or request.job.deadline <= self._clock():
                ended.append(Ended(request, "not-performed", COUNTED, DeadlineExceeded()))
            else:
                go.append(request)
        try:
            self._records.commit()
        except AuditFailure as error:
            self._end_all(go, "not-performed", error, COUNTED)
        else:
            self._submit(go)
        if ended:
            self._end(ended)

    def _end_all(self, requests: list[SigningRequest], result: str, error: HsmdError, reason: str) -> None:
        open_requests = [Ended(request, result, reason, error) for request in requests if not request.replied]
        if open_requests:
            self._end(open_requests)


def _wanted(request: SigningRequest, origin: str) -> WantedUse:
    grant = request.grant
    return WantedUse(
        grant.limit or 0, origin, request.attempt, grant.client, grant.key, int(request.job.body[0])
    )


def _away() -> StoreFailure:
    return StoreFailure("the store did not answer in time")

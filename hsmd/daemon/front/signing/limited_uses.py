"""Uses of limited grants: the store decides about each and counts it, between the attempt's record and the token.

One transaction at a time runs in a thread; what arrives meanwhile goes into the next one. A use that was counted is
recorded as `grant.used` before the token is asked, and is never repeated. Without an answer of the store the token is not
asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.rules import Rule
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.store import NotCounted
from hsmd.errors import (
    AuditFailure,
    DeadlineExceeded,
    HsmdError,
    InternalFault,
    Overloaded,
    Refused,
    StoreFailure,
)
from hsmd.transparency.records import GRANT_USED_EVENT

COUNT_TIMEOUT_S = 5.0
"""The store is taken for away if it does not answer within this time."""
MAX_WAITING = 1_000
"""Uses of all clients that wait for the next transaction ..."""
MAX_WAITING_OF_ONE = 250
"""... and of one client. Each client in turn gets a place in the transaction, so that none can take all."""
MAX_IN_TRANSACTION = 200
"""Uses counted in one transaction, whose locks others wait for."""
COUNTED = "the use of the grant is counted, and not repeated"
_MAY_BE_COUNTED = "the store did not answer in time; the use may be counted"
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
        audit: AuditLog,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        submit: Callable[[list[SigningRequest]], None],
        end: Callable[[list[Ended]], None],
    ) -> None:
        self._cache = cache
        self._audit = audit
        self._clock = clock
        self._now = now
        self._submit = submit
        self._end = end
        self._waiting = _Waiting()
        self._task: asyncio.Task[None] | None = None
        self._store_is_late = False

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
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                if batch:
                    await self._count(batch)
        finally:
            self._task = None

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
        ids = [request.grant.limit or 0 for request in batch]
        counting = asyncio.ensure_future(self._cache.count_uses(ids, self._now()))
        try:
            await self._wait(counting, batch)
            numbers = counting.result()
        except HsmdError as error:
            self._end_all(batch, "not-performed", error, _NOT_COUNTED)
        except Exception as error:
            log.error("grant.count_failed", exc_info=error)
            self._end_all(batch, "not-performed", InternalFault(), _MAY_BE_COUNTED)
        else:
            self._counted(batch, numbers, snapshot)

    async def _wait(
        self, counting: asyncio.Future[list[int | NotCounted]], batch: list[SigningRequest]
    ) -> None:
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
        self, batch: list[SigningRequest], numbers: Sequence[int | NotCounted], snapshot: Snapshot
    ) -> None:
        """Record the uses that were counted; submit those whose callers still wait, and end the others."""
        go: list[SigningRequest] = []
        ended: list[Ended] = []
        for request, number in zip(batch, numbers, strict=True):
            if isinstance(number, NotCounted):
                snapshot.note_refused(request.grant.limit or 0, _RULES[number])
                if not request.replied:
                    ended.append(Ended(request, "refused", _RULES[number].value, Refused()))
                continue
            self._note_use(request, number)
            if request.replied:
                continue
            if request.abandoned or request.job.deadline <= self._clock():
                ended.append(Ended(request, "not-performed", COUNTED, DeadlineExceeded()))
            else:
                go.append(request)
        try:
            self._audit.commit()
        except AuditFailure as error:
            self._end_all(go, "not-performed", error, COUNTED)
        else:
            self._submit(go)
        if ended:
            self._end(ended)

    def _note_use(self, request: SigningRequest, number: int) -> None:
        grant = request.grant
        self._audit.event(
            GRANT_USED_EVENT,
            grant.client,
            attempt=request.attempt,
            grant=grant.limit or 0,
            key=grant.key.hex(),
            number=number,
        )

    def _end_all(self, requests: list[SigningRequest], result: str, error: HsmdError, reason: str) -> None:
        open_requests = [Ended(request, result, reason, error) for request in requests if not request.replied]
        if open_requests:
            self._end(open_requests)


def _away() -> StoreFailure:
    return StoreFailure("the store did not answer in time")

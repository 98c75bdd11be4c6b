"""The dispatcher of control requests: decides whether the caller may make a request, records it, and calls its handler.

The record of a request that changes state is on disk before the handler runs, and the outcome is recorded after. Requests that
change nothing are not recorded; refused ones are, up to a rate. A change that any client may request is decided first, so that
none is recorded that has no effect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from msgspec import Struct

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import REFUSALS_EVENT, RecordRate, RefusalMeter
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.errors import AuditFailure, HsmdError, Overloaded, Refused
from hsmd.protocol import messages
from hsmd.protocol.audit_fields import fields_of, key_fields, key_named_by
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role

Handler = Callable[[Identity, Any, float], Awaitable[Struct]]
"""Carries out one request of a caller that may make it; the deadline is a monotonic time."""

Settle = Callable[[Identity, Any], Awaitable[Struct | None]]
"""Decides about a change before it is recorded: the result if nothing would change, None if it is to be carried out."""

MAX_CHANGES = 16
"""Most changes of one client at a time. Every role can request some, and each is recorded and waits for the store."""
RETRY_S = 0.100


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request of which the begin is recorded, at `index`.

    `key`: the digest (hexadecimal) of its key, empty if there was none; `part_of`: the index of the begin of the request
    that implies this one.
    """

    request: Request
    key: str
    index: int
    part_of: Mapping[str, int]


class Dispatcher:
    """Dispatches control requests. `handlers` names one handler for each type of request."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        audit: AuditLog,
        handlers: Mapping[type[Request], Handler],
        settlers: Mapping[type[Request], Settle] = MappingProxyType({}),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        missing = set(messages.REQUESTS) - set(handlers)
        if missing:
            raise ValueError(f"control requests without a handler: {sorted(cls.__name__ for cls in missing)}")
        self._snapshot = snapshot
        self._audit = audit
        self._handlers = handlers
        self._settlers = settlers
        self._now = now
        self._clock = clock
        self._refusals = RefusalMeter()
        self._change_rate = RecordRate()
        self._changes: dict[asyncio.Task[Struct], str] = {}
        """The changes that are under way, each with the client that requested it."""

    @property
    def idle(self) -> bool:
        """Whether no change is under way. A change goes on after its caller has disconnected."""
        return not self._changes

    async def dispatch(self, identity: Identity, request: Request, deadline: float) -> Struct:
        """Return the result of a request. Raises HsmdError; Refused if the caller may not make the request."""
        denial = self._snapshot().decide_request(identity, request, self._now())
        if denial is not None:
            self._refuse(identity, request, denial.rule.value)
        handler = self._handlers[type(request)]
        if not request.changes:
            return await handler(identity, request, deadline)
        # A change is carried out and its outcome recorded even if the caller disconnects or cancels; so the limit on the open
        # requests of a session does not limit changes.
        if list(self._changes.values()).count(identity.client) >= MAX_CHANGES:
            raise Overloaded.retry_in(RETRY_S)
        # Changes are recorded even if they fail. Operators are trusted with the disk, other clients are not.
        by_operator = Role.OPERATOR in identity.roles
        if not by_operator and not self._change_rate.take(identity.client, self._clock()):
            raise Overloaded.retry_in(RETRY_S)
        settle = self._settlers.get(type(request))
        if settle is not None and (settled := await settle(identity, request)) is not None:
            return settled
        change = asyncio.get_running_loop().create_task(self._change(handler, identity, request, deadline))
        self._changes[change] = identity.client
        change.add_done_callback(self._changed)
        return await asyncio.shield(change)

    def _changed(self, change: asyncio.Task[Struct]) -> None:
        del self._changes[change]
        if not change.cancelled():
            change.exception()  # retrieved, so that asyncio does not log it; the audit log has it, and a caller that still waits

    def _refuse(self, identity: Identity, request: Request, rule: str) -> NoReturn:
        """Record a refusal and raise Refused.

        Beyond a rate refusals are only counted, so that no client can fill the disk; the next record brings the sums.
        """
        now = self._clock()
        if self._refusals.admit(identity.client, now):
            for client, count in self._refusals.due(now).items():
                self._audit.event(REFUSALS_EVENT, client, count=count)
            self._note("control.refused", identity, request, self._key_of(request), rule=rule)
            self._audit.commit()
        raise Refused(detail=rule)

    async def _change(
        self, handler: Handler, identity: Identity, request: Request, deadline: float
    ) -> Struct:
        begun = self._begin(identity, request)
        await self._audit.commit_durable()
        end = partial(self._end, identity, begun)
        try:
            result = await handler(identity, request, deadline)
        except HsmdError as error:
            await end("control.failed", error=error.text)
            raise
        except BaseException:
            await end("control.unknown")
            raise
        await end("control.done")
        return result

    def _begin(self, identity: Identity, request: Request) -> list[_Begun]:
        """Note that a request begins, and so do those that it implies."""
        first = self._note_begin(identity, request, {})
        part_of = {"part_of": first.index}
        return [first, *(self._note_begin(identity, each, part_of) for each in request.implied())]

    def _note_begin(self, identity: Identity, request: Request, part_of: Mapping[str, int]) -> _Begun:
        key = self._key_of(request)
        index = self._note("control.begun", identity, request, key, **part_of)
        return _Begun(request, key, index, part_of)

    async def _end(self, identity: Identity, begun: list[_Begun], event: str, **more: str) -> None:
        """Record how a change ended. Raises AuditFailure with a text that says that it has ended.

        A key that did not exist at the begin may exist now; one that is gone is still the one that the request was about.
        """
        for each in begun:
            # The reason of a failure can name keys whose owners are others: it is only in the record of the whole request.
            told = each.part_of or more
            key = each.key or self._key_of(each.request)
            self._note(event, identity, each.request, key, begun=each.index, **told)
        try:
            await self._audit.commit_durable()
        except AuditFailure as error:
            text = "the change is over, but its outcome cannot be recorded; check its effect before you repeat it"
            raise AuditFailure(text, detail=error.detail) from None

    def _key_of(self, request: Request) -> str:
        """Digest (hexadecimal) of the key that a request is about, empty if there is no key of this name at present."""
        return self._snapshot().digest_of(key_named_by(request))

    def _note(self, event: str, identity: Identity, request: Request, key: str, **more: str | int) -> int:
        fields = {**fields_of(request), **key_fields(key), **more}
        return self._audit.event(event, identity.client, credential=identity.credential.text, **fields)

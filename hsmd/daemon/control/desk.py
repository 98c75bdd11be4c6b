"""The desk: takes every control request, asks whether the caller may, records it, and has it carried out.

A request that changes something is on disk before its effect, and its end is recorded after. Read-only requests are not
recorded, refused ones are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from hsmd.daemon.access.identity import Identity
from hsmd.daemon.access.snapshot import Snapshot
from hsmd.daemon.audit.log import AuditLog
from hsmd.errors import HsmdError, Refused
from hsmd.protocol import messages
from hsmd.protocol.messages import Request

Handler = Callable[[Identity, Any, float], Awaitable[Struct]]
"""Carries out one request for a caller who may make it, until a monotonic deadline."""

_RECORDED_MEMBERS = ("name", "key", "client", "key_type", "token")

CHANGES: frozenset[type[Request]] = frozenset(
    {
        messages.KeyGenerate, messages.KeyAdopt, messages.KeyDestroy, messages.KeyRequest,
        messages.CertificateImport, messages.CertificateSelfSigned,
        messages.ClientAdd, messages.ClientRemove, messages.ClientTrustCa,
        messages.GrantAdd, messages.GrantRemove,
    }
)  # fmt: skip


class Desk:
    """Dispatches control requests. `handlers` names one handler for each type of request."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        audit: AuditLog,
        handlers: Mapping[type[Request], Handler],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        missing = set(messages.REQUESTS) - set(handlers)
        if missing:
            raise ValueError(f"control requests without a handler: {sorted(cls.__name__ for cls in missing)}")
        self._snapshot = snapshot
        self._audit = audit
        self._handlers = handlers
        self._now = now

    async def dispatch(self, identity: Identity, request: Request, deadline: float) -> Struct:
        """The result of a request. Raises HsmdError; Refused if the caller's role does not allow it."""
        denial = self._snapshot().decide_request(identity, request, self._now())
        if denial is not None:
            await self._record("control.refused", identity, request, rule=denial.rule.value)
            raise Refused(detail=denial.rule.value)
        handler = self._handlers[type(request)]
        if type(request) not in CHANGES:
            return await handler(identity, request, deadline)
        return await self._change(handler, identity, request, deadline)

    async def _change(self, handler: Handler, identity: Identity, request: Request, deadline: float) -> Struct:
        begun = await self._record("control.begun", identity, request)
        try:
            result = await handler(identity, request, deadline)
        except HsmdError as error:
            await self._record("control.failed", identity, request, begun=begun, error=error.text)
            raise
        except BaseException:
            await self._record("control.unknown", identity, request, begun=begun)
            raise
        await self._record("control.done", identity, request, begun=begun)
        return result

    async def _record(self, event: str, identity: Identity, request: Request, **more: str | int) -> int:
        members = {name: str(getattr(request, name)) for name in _RECORDED_MEMBERS if getattr(request, name, "")}
        fields: dict[str, str | int] = {"op": _operation(request), "credential": identity.credential}
        fields |= {f"target_{name}": value for name, value in members.items()}
        purposes = getattr(request, "purposes", None) or getattr(request, "clients", None)
        if purposes:
            fields["target_list"] = ",".join(purposes)
        index = self._audit.event(event, identity.client, **fields, **more)
        await self._audit.commit_durable()
        return index


def _operation(request: Request) -> str:
    return str(type(request).__struct_config__.tag)

"""Making a key that only the daemon uses, when it is first needed; recorded like a control request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import HsmdError, NotFound
from hsmd.purposes import Purpose

MakeKey = Callable[[float], Awaitable[None]]
"""Makes a key of one purpose in a token, before a deadline; the snapshot shows it afterwards. Raises HsmdError."""


async def make_daemon_key(
    audit: AuditLog, purpose: Purpose, make: MakeKey, find: Callable[[], KeyRecord | None], deadline: float
) -> KeyRecord:
    """Make the key that `find` has not found. Raises HsmdError."""
    begun = audit.event("control.begun", "", op="key.generate", target_purposes=purpose.label)
    await audit.commit_durable()
    try:
        await make(deadline)
    except HsmdError as error:
        audit.event("control.failed", "", op="key.generate", begun=begun, error=error.text)
        raise
    key = find()
    if key is None:
        raise NotFound(f"there is no key of the purpose {purpose.label}")
    audit.event(
        "control.done", "", op="key.generate", begun=begun, target_name=key.name, key=key.digest.hex()
    )
    return key

"""Rows of the vault that are not what was signed: each is recorded in the audit log, up to a rate, and never believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.front.vault.trust import Altered

ALTERED_EVENT = "vault.altered"

log = observe.logger()


class Alterations:
    """Records them. Belongs to the event loop."""

    def __init__(self, audit: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._rate = RecordRate()

    @contextmanager
    def noted(self, owner: str, record: str = "") -> Iterator[None]:
        """Within this, an alteration is recorded before it is raised on. The caller commits."""
        try:
            yield
        except Altered as error:
            self.note(owner, record, error)
            raise

    def note(self, owner: str, record: str, error: Altered) -> None:
        """Record an alteration that was found while a request about this owner was dealt with."""
        if not self._rate.take(owner, self._clock()):
            return
        log.error("vault.altered", client=owner, error=error.text, reason=error.detail)
        named = {"record": record} if record else {}
        self._audit.event(ALTERED_EVENT, "", owner=owner, error=error.text, **named)

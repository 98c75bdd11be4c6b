"""Reports what a daemon notices of tokens and of its disk: when a condition begins, and when it ends.

Nothing in the store begins or ends with it, so these events wait here while the store is away, a limited number of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hsmd import observe
from hsmd.daemon.store import Readers, Store, Transaction
from hsmd.daemon.store.audience import WATCHING
from hsmd.errors import HsmdError, StoreFailure

CHECK_S = 1.0
MAX_WAITING = 100
"""Events that wait for the store; of more, the oldest are lost."""
AT_ONCE, REFILL_S = 6, 60.0
"""A condition that comes and goes is reported so often at once, and once in this time in the long run."""

log = observe.logger()


@dataclass(frozen=True, slots=True)
class Condition:
    """How something stands now. `begun` is the kind of the event when it begins to hold, `ended` when it ends, if any."""

    begun: str
    ended: str
    subject: str
    holds: bool
    payload: dict[str, Any]
    about: str = ""
    """Tells conditions apart that have the same kinds and subject."""


@dataclass(slots=True)
class _Told:
    """What was reported of a condition, and how many reports it may still cause."""

    holds: bool = False
    left: float = AT_ONCE
    at: float = field(default=0.0)

    def may_report(self, now: float) -> bool:
        self.left, self.at = min(AT_ONCE, self.left + (now - self.at) / REFILL_S), now
        return self.left >= 1


@dataclass(frozen=True, slots=True)
class _Waiting:
    kind: str
    subject: str
    payload: dict[str, Any]
    at: datetime


class Conditions:
    """One for each daemon. `observed` returns all conditions; `appended` is called when there are new events."""

    def __init__(
        self,
        store: Store,
        observed: Callable[[], Iterable[Condition]],
        appended: Callable[[], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._observed = observed
        self._appended = appended
        self._now = now
        self._clock = clock
        self._told: dict[tuple[str, str, str], _Told] = {}
        self._waiting: deque[_Waiting] = deque()

    async def follow(self) -> None:
        """Check regularly; runs until cancelled."""
        away = False
        while True:
            try:
                await self.check()
                away = False
            except StoreFailure as error:
                if not away:
                    log.warning("events.wait", error=error.text)
                away = True
            await asyncio.sleep(CHECK_S)

    async def check(self) -> None:
        """Note what has begun or ended, and append what waits. Raises StoreFailure; it waits further then."""
        for condition in self._observed():
            self._note(condition)
        while self._waiting:
            first = self._waiting[0]
            try:
                await asyncio.to_thread(self._append, first)
            except StoreFailure:
                raise
            except HsmdError as error:  # one that cannot be appended must not keep back the others
                log.error(
                    "events.lost", reason=f"{first.kind} of {first.subject}: {error.detail or error.text}"
                )
            if self._waiting and self._waiting[0] is first:
                self._waiting.popleft()
            self._appended()

    def _note(self, condition: Condition) -> None:
        told = self._told.setdefault(
            (condition.begun, condition.subject, condition.about), _Told(at=self._clock())
        )
        if condition.holds is told.holds or not told.may_report(self._clock()):
            return
        told.holds = condition.holds
        kind = condition.begun if condition.holds else condition.ended
        if not kind:
            return
        told.left -= 1
        self._waiting.append(_Waiting(kind, condition.subject, condition.payload, self._now()))
        if len(self._waiting) > MAX_WAITING:
            lost = self._waiting.popleft()
            log.error("events.lost", reason=f"the store is away for too long: {lost.kind} of {lost.subject}")

    def _append(self, waiting: _Waiting) -> None:
        def append(tx: Transaction) -> None:
            tx.events.append(
                waiting.kind,
                waiting.subject,
                readers=Readers(WATCHING),
                payload=waiting.payload,
                now=waiting.at,
            )

        self._store.change(append, versioned=False)

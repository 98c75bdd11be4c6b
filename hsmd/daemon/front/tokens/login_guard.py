"""Logins to tokens, across the fleet: one daemon at a time tries the first one, and a refused PIN stops all of them.

A token locks its PIN after a few wrong tries, and each worker of each daemon that shares it logs in. So a daemon asks the
store for its turn before its first login to a token, and starts one worker alone; the others follow when that one is ready.
If the PIN is refused, a row in the store stops the token's logins everywhere until an operator clears it (`hsmd token clear`).
Workers that are logged in go on.

    waiting --turn granted--> first --ready--> going
    first --worker failed--> waiting            any --PIN refused, here or elsewhere--> stopped --cleared--> waiting

While a token is `going` its workers are replaced without asking the store, which may be away. What then keeps two daemons from
trying the same wrong PIN is the token: its workers do not log in when its flags say that a try has failed (see `module`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from hsmd import observe
from hsmd.daemon.ipc.launcher_messages import Starts
from hsmd.daemon.store import LoginStop, Store
from hsmd.errors import StoreFailure

ASK_S = 0.5
"""How often the store is asked while something waits for it."""
HOLD = timedelta(seconds=15)
"""A turn that nobody gives back ends by itself; a worker start takes 0.3 s."""

log = observe.logger()


class Phase(Enum):
    """Where a token is on its way to logins."""

    WAITING = "waiting"
    FIRST = "first"
    GOING = "going"
    STOPPED = "stopped"


@dataclass(slots=True)
class _Token:
    phase: Phase = Phase.WAITING
    cleared: bool = False
    closed: bool = True
    stop: LoginStop | None = None
    unwritten: bool = False
    """The stop is yet to be written to the store."""
    held: bool = False


class LoginGuard:
    """Says what may be started; hears from the pools (it is their `HealthListener`). Lives on the event loop."""

    def __init__(
        self,
        store: Store,
        *,
        holder: str,
        by: str,
        tell: Callable[[str, Starts, bool], None],
        hold: Callable[[str, str], None],
        record: Callable[[LoginStop], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`holder` identifies this daemon in the store, `by` names it for people. `tell(token, starts, cleared)` instructs the
        launcher, `hold(token, reason)` the token's pool ("" when logins go on); `record` writes a new stop to the audit log."""
        self._store = store
        self._holder = holder
        self._by = by
        self._tell = tell
        self._hold = hold
        self._record = record
        self._now = now
        self._tokens: dict[str, _Token] = {}
        self._wake = asyncio.Event()
        self._look = True

    def apply(self, names: Iterable[str]) -> None:
        """Serve these tokens; one that is new waits for its turn."""
        wanted = list(names)
        self._tokens = {name: self._tokens.get(name) or _Token() for name in wanted}
        self.look()

    def look(self) -> None:
        """Something in the store has changed: look at it soon."""
        self._look = True
        self._wake.set()

    def stop_of(self, name: str) -> LoginStop | None:
        """Why nobody logs in to this token; None if they do."""
        token = self._tokens.get(name)
        return token.stop if token else None

    async def follow(self) -> None:
        """Keep to what the store says; runs until cancelled. A store that is away stops nothing that goes, and starts nothing."""
        while True:
            self._wake.clear()
            try:
                await self._step()
            except StoreFailure as error:
                log.warning("token.logins_wait", error=error.text)
            with_work = any(
                token.phase is Phase.WAITING or token.unwritten or token.held
                for token in self._tokens.values()
            )
            try:
                async with asyncio.timeout(ASK_S if with_work or self._look else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    # --- what the pools say ---

    def logged_in(self, token: str) -> None:
        """The PIN is right: all workers may start."""
        found = self._tokens.get(token)
        if found is not None and found.phase is Phase.FIRST:
            found.phase, found.cleared = Phase.GOING, False
            self._tell_starts(token, found)
            self._wake.set()

    def login_refused(self, token: str, reason: str) -> None:
        """Nobody tries it again, here or elsewhere."""
        found = self._tokens.get(token)
        if found is None or found.phase is Phase.STOPPED:
            return
        self._stop(token, found, LoginStop(token, self._now(), self._by, reason))
        found.unwritten = True
        assert found.stop is not None
        self._record(found.stop)
        self._wake.set()

    def start_failed(self, token: str) -> None:
        """The first worker did not get as far as the PIN: the turn goes to whoever is next."""
        found = self._tokens.get(token)
        if found is not None and found.phase is Phase.FIRST:
            found.phase = Phase.WAITING
            self._tell_starts(token, found)

    def breaker_moved(self, token: str, closed: bool) -> None:
        """A token that is away is tried by one worker at a time."""
        found = self._tokens.get(token)
        if found is not None:
            found.closed = closed
            if found.phase is Phase.GOING:
                self._tell_starts(token, found)

    # --- the store ---

    async def _step(self) -> None:
        for token in list(self._tokens.values()):
            if token.unwritten and token.stop is not None:
                await asyncio.to_thread(self._store.stop_logins, token.stop)
                token.unwritten = token.held = False
        if self._look:
            self._look = False
            try:
                self._compare(await asyncio.to_thread(self._store.login_stops))
            except StoreFailure:
                self._look = True
                raise
        for name, token in list(self._tokens.items()):
            if token.held and token.phase is not Phase.FIRST:
                await asyncio.to_thread(self._store.release_login, name, self._holder, cleared=token.cleared)
                token.held = token.cleared = False
            if token.phase is Phase.WAITING:
                await self._ask_for_turn(name, token)

    def _compare(self, stops: list[LoginStop]) -> None:
        stopped = {stop.token: stop for stop in stops}
        for name, token in self._tokens.items():
            stop = stopped.get(name)
            if stop is not None and token.phase is not Phase.STOPPED:
                self._stop(name, token, stop)
            elif stop is None and token.phase is Phase.STOPPED and not token.unwritten:
                log.info("token.logins_cleared", token=name)
                token.phase, token.stop = Phase.WAITING, None
                self._hold(name, "")

    async def _ask_for_turn(self, name: str, token: _Token) -> None:
        claim = await asyncio.to_thread(self._store.claim_login, name, self._holder, self._now(), HOLD)
        if token.phase is not Phase.WAITING:
            return
        if claim.stop is not None:
            self._stop(name, token, claim.stop)
        elif claim.granted:
            token.phase, token.held, token.cleared = Phase.FIRST, True, claim.cleared
            self._tell_starts(name, token)

    def _stop(self, name: str, token: _Token, stop: LoginStop) -> None:
        token.phase, token.stop, token.cleared = Phase.STOPPED, stop, False
        log.error(
            "token.logins_stopped", token=name, reason=f"{stop.reason}; mend it, then hsmd token clear {name}"
        )
        self._tell_starts(name, token)
        self._hold(name, stop.reason)

    def _tell_starts(self, name: str, token: _Token) -> None:
        self._tell(name, starts_of(token.phase, closed=token.closed), token.cleared)


def starts_of(phase: Phase, *, closed: bool) -> Starts:
    """What may be started in a phase, with the token's breaker closed or not."""
    if phase is Phase.FIRST:
        return Starts.ONE
    if phase is Phase.GOING:
        return Starts.ALL if closed else Starts.ONE
    return Starts.NONE

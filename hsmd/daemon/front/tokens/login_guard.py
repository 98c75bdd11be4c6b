"""Logins to tokens, across the fleet: one daemon at a time tries the first one, and a refused PIN stops all of them.

A token locks its PIN after a few wrong tries, and each worker of each daemon that shares it logs in. So a daemon claims a turn in
the store before its first login to a token, and starts a single worker; the others are started when that one is ready. If the PIN
is refused, a row in the store stops the token's logins everywhere until an operator clears it (`hsmd token clear`). Workers that
are logged in go on.

If a worker ends before it has tried the PIN, its daemon gives the turn back, and asks again later than the others do, so that one
without its module keeps none of them waiting. A stop gives the turn back, too, unless a login is still under way.

A turn is a lease. A daemon that was suspended beyond its term gives back neither the turn nor a clearance. A refusal that it
reports late stops the logins all the same, unless an operator has cleared a stop since the daemon last knew how many clearances
there were: then the daemon waits for a turn again, so the token decides under the newest clearance.

    waiting --turn granted--> first --ready--> going
    first --worker failed--> waiting      any --PIN refused, here or elsewhere, or an operator--> stopped --cleared--> waiting

While a token is `going` its workers are replaced without asking the store, which may be away. The token's flags then keep two
daemons from trying the same wrong PIN: a worker does not log in when they show a failed try (see `hsmd.pkcs11.session`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from hsmd import observe
from hsmd.daemon.front.ledger.producers import stop_logins
from hsmd.daemon.ipc.launcher_messages import PermitStarts, Starts
from hsmd.daemon.store import Lease, LoginClaim, LoginStop, Store
from hsmd.errors import LeaseLost, StoreFailure
from hsmd.system.repetition import Repetition

ASK_S = 0.5
"""How often the store is asked while a token waits for it."""
HOLD = timedelta(seconds=15)
"""A turn that is not given back ends after this time; a worker starts in 0.3 s."""

WAITING = (
    "another login to the token is under way, or a daemon was stopped during one; this daemon logs in within"
    f" {HOLD.seconds} s"
)

log = observe.logger()


class Phase(Enum):
    """How far a token is with its logins."""

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
    """The stop has not been written to the store yet."""
    lease: Lease | None = None
    """The turn, until it is given back."""
    waiting: bool = False
    """It was logged that the turn has another holder."""
    ask_at: float = 0.0
    """When it may ask for a turn again; monotonic."""
    clearances: int = 0
    """How many clearances had been given when this daemon was allowed to log in, or last saw that it still is."""


class LoginGuard:
    """Decides which workers may be started, by the store and by what the pools report (it is their `HealthListener`)."""

    def __init__(
        self,
        store: Store,
        *,
        holder: str,
        by: str,
        tell: Callable[[PermitStarts], None],
        hold: Callable[[str, str], None],
        record: Callable[[LoginStop], None],
        try_login: Callable[[str], None] = lambda token: None,
        wait: Callable[[str, str], None] = lambda token, reason: None,
        starting: Callable[[str], bool] = lambda token: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`holder` identifies this daemon in the store, `by` names it for operators. `tell` sends a message to the launcher;
        `hold(token, reason)` tells the token's pool ("" when logins are allowed); `record` writes a stop to the audit log.
        `try_login(token)` has a worker start anew if all are logged in, so that the PIN is tried in this daemon's turn;
        `wait(token, reason)` tells the pool why no worker is started at present; `starting(token)` says whether a worker has
        been started that may be logging in.
        """
        self._store = store
        self._holder = holder
        self._by = by
        self._tell = tell
        self._hold = hold
        self._record = record
        self._try_login = try_login
        self._wait = wait
        self._starting = starting
        self._now = now
        self._tokens: dict[str, _Token] = {}
        self._wake = asyncio.Event()
        self._stops_due = True
        self._closing = False
        self._followed = asyncio.Event()

    def apply(self, names: Iterable[str]) -> None:
        """Serve these tokens; a new one waits for its turn."""
        wanted = list(names)
        self._tokens = {name: self._tokens.get(name) or _Token() for name in wanted}
        self.store_changed()

    def store_changed(self) -> None:
        """Something in the store has changed: read the stops again soon."""
        self._stops_due = True
        self._wake.set()

    def phase_of(self, name: str) -> Phase:
        """How far this daemon is with its logins to this token."""
        token = self._tokens.get(name)
        return token.phase if token else Phase.WAITING

    def stop_of(self, name: str) -> LoginStop | None:
        """Why logins to this token are stopped; None if they are not."""
        token = self._tokens.get(name)
        return token.stop if token else None

    async def follow(self) -> None:
        """Follow the store; runs until `close`. While the store is away, tokens in use stay so, and no other becomes so."""
        away = Repetition(time.monotonic)
        while not self._closing:
            self._wake.clear()
            try:
                await self._step()
                away.forget()
            except StoreFailure as error:
                if count := away.count(error.text):
                    log.warning("token.logins_wait", error=error.text, count=count)
            with_work = any(
                token.phase is Phase.WAITING or token.unwritten or token.lease
                for token in self._tokens.values()
            )
            try:
                async with asyncio.timeout(ASK_S if with_work or self._stops_due else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
        await self._give_all_back()
        self._followed.set()

    async def close(self, limit_s: float) -> None:
        """Give the turns back, so that the next daemon need not wait for their end; takes `limit_s` at most.

        A login that is under way is awaited: if the PIN is refused, no other daemon is to try it. The turn of one that takes
        longer ends by itself.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while any(self._is_logging_in(name) for name in self._tokens):  # noqa: ASYNC110  seldom
                    await asyncio.sleep(0.02)
                self._closing = True
                self._wake.set()
                await self._followed.wait()

    # --- called by the pools ---

    def logged_in(self, token: str) -> None:
        """The PIN was accepted: all workers may start."""
        found = self._tokens.get(token)
        if found is not None and found.phase is Phase.FIRST:
            found.phase, found.cleared = Phase.GOING, False
            self._tell_starts(token, found)
            self.store_changed()

    def login_refused(self, token: str, reason: str) -> None:
        """The PIN was refused: stop logins here, and at every daemon that shares the store."""
        found = self._tokens.get(token)
        if found is None or found.phase is Phase.STOPPED:
            return
        self._stop(token, found, LoginStop(token, self._now(), self._by, reason))
        found.unwritten = True
        assert found.stop is not None
        self._record(found.stop)
        self._wake.set()

    def start_failed(self, token: str) -> None:
        """The first worker did not get as far as the PIN: give the turn back, for the next daemon that asks."""
        found = self._tokens.get(token)
        if found is not None and found.phase is Phase.FIRST:
            found.phase, found.ask_at = Phase.WAITING, time.monotonic() + 2 * ASK_S
            self._tell_starts(token, found)
            self._wake.set()

    def breaker_moved(self, token: str, closed: bool) -> None:
        """While the breaker is not closed, the token is tried by one worker at a time."""
        found = self._tokens.get(token)
        if found is not None:
            found.closed = closed
            if found.phase is Phase.GOING:
                self._tell_starts(token, found)

    # --- the store ---

    async def _step(self) -> None:
        for name, token in list(self._tokens.items()):
            if token.unwritten and token.stop is not None:
                await self._write_stop(name, token, token.stop)
        if self._stops_due:
            self._stops_due = False
            try:
                await self._read_stops()
            except StoreFailure:
                self._stops_due = True
                raise
        for name, token in list(self._tokens.items()):
            if token.phase is not Phase.FIRST:
                await self._give_back(name, token)
            if token.phase is Phase.WAITING and time.monotonic() >= token.ask_at and not self._closing:
                await self._ask_for_turn(name, token)

    async def _give_all_back(self) -> None:
        """What is not written yet, and the turns in which no worker is logging in."""
        try:
            await self._step()
            for name, token in self._tokens.items():
                if not self._is_logging_in(name):
                    token.cleared = False  # it may have been used by a worker that ended without a word
                    await self._give_back(name, token)
        except StoreFailure as error:
            log.warning("token.turn_kept", error=error.text)

    async def _give_back(self, name: str, token: _Token) -> None:
        if token.lease is not None:
            await self._release(name, token.lease, cleared=token.cleared)
            token.lease, token.cleared = None, False

    def _is_logging_in(self, name: str) -> bool:
        return self._tokens[name].phase is Phase.FIRST and self._starting(name)

    async def _write_stop(self, name: str, token: _Token, stop: LoginStop) -> None:
        clearances = token.clearances
        stopped = await asyncio.to_thread(self._store.change, lambda tx: stop_logins(tx, stop, clearances))
        token.unwritten = False
        if stopped:
            token.lease = None
        else:
            log.warning("token.refusal_outdated", token=name, reason=stop.reason)
            self._wait_again(name, token)

    async def _release(self, name: str, lease: Lease, *, cleared: bool) -> None:
        try:
            await asyncio.to_thread(
                self._store.change,
                lambda tx: tx.logins.release(name, lease, cleared=cleared),
                versioned=False,
            )
        except LeaseLost:
            log.warning("token.turn_lost", token=name)

    async def _read_stops(self) -> None:
        names = list(self._tokens)
        stops, clearances = await asyncio.to_thread(
            self._store.query,
            lambda tx: (tx.logins.stops(), {name: tx.logins.clearances(name) for name in names}),
        )
        self._compare(stops, clearances)

    def _compare(self, stops: list[LoginStop], clearances: dict[str, int]) -> None:
        stopped = {stop.token: stop for stop in stops}
        for name, token in self._tokens.items():
            stop = stopped.get(name)
            if stop is not None and token.phase is not Phase.STOPPED:
                self._stop(name, token, stop)
            elif stop is None and token.phase is Phase.STOPPED and not token.unwritten:
                log.info("token.logins_cleared", token=name)
                self._wait_again(name, token)
            elif stop is None and token.phase is Phase.GOING:
                # A login that is refused from now on is newer than these clearances.
                token.clearances = max(token.clearances, clearances.get(name, 0))

    def _wait_again(self, name: str, token: _Token) -> None:
        token.phase, token.stop = Phase.WAITING, None
        self._hold(name, "")

    async def _ask_for_turn(self, name: str, token: _Token) -> None:
        claim = await asyncio.to_thread(claim_login, self._store, name, self._holder, self._now())
        if claim.granted:
            token.lease, token.cleared = claim.lease, claim.cleared
        if token.phase is not Phase.WAITING:
            return
        if claim.stop is not None:
            self._stop(name, token, claim.stop)
        elif claim.granted:
            token.phase, token.clearances, token.waiting = Phase.FIRST, claim.clearances, False
            self._tell_starts(name, token)
            self._try_login(name)
        else:
            self._wait_for_turn(name, token)

    def _wait_for_turn(self, name: str, token: _Token) -> None:
        """Another daemon logs in, or one that was killed did: say so, and that it goes on by itself."""
        self._wait(name, WAITING)
        if not token.waiting:
            log.info("token.login_waits", token=name, reason=WAITING)
        token.waiting = True

    def _stop(self, name: str, token: _Token, stop: LoginStop) -> None:
        token.phase, token.stop, token.cleared = Phase.STOPPED, stop, False
        log.error(
            "token.logins_stopped",
            token=name,
            reason=f"{stop.reason}; fix that, then run hsmd token clear {name}",
        )
        self._tell_starts(name, token)
        self._hold(name, stop.reason)

    def _tell_starts(self, name: str, token: _Token) -> None:
        self._tell(PermitStarts(name, starts_of(token.phase, closed=token.closed), token.cleared))


def claim_login(store: Store, token: str, holder: str, now: datetime) -> LoginClaim:
    """Request the turn to log in to a token for `HOLD`.

    A request that is not granted writes nothing, and none changes the store's version.
    """
    found = store.query(lambda tx: tx.logins.preview(token, holder, now))
    if not found.granted:
        return found
    return store.change(lambda tx: tx.logins.claim(token, holder, now, HOLD), versioned=False)


def starts_of(phase: Phase, *, closed: bool) -> Starts:
    """The workers that may be started in a phase, with the token's breaker closed or not."""
    if phase is Phase.FIRST:
        return Starts.ONE
    if phase is Phase.GOING:
        return Starts.ALL if closed else Starts.ONE
    return Starts.NONE

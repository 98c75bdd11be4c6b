"""Logins to tokens: three daemons that share a store try a wrong PIN once, across restarts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hsmd.daemon.front.tokens import login_guard as module
from hsmd.daemon.front.tokens.login_guard import HOLD, LoginGuard, claim_login
from hsmd.daemon.ipc.launcher_messages import PermitStarts, Starts
from hsmd.daemon.store import Lease, LoginClaim, LoginStop, Store
from hsmd.errors import LeaseLost, NotFound
from tests.support.polling import eventually
from tests.support.store import NOW

TOKEN = "main"


def stops(store: Store) -> list[LoginStop]:
    return store.query(lambda tx: tx.logins.stops())


def claim(store: Store, holder: str, at: timedelta = timedelta()) -> Lease:
    """Claim the turn, which must be free."""
    found = claim_login(store, TOKEN, holder, NOW + at)
    assert found.granted
    assert found.lease is not None
    return found.lease


def release(store: Store, lease: Lease, *, cleared: bool = False) -> None:
    store.change(lambda tx: tx.logins.release(TOKEN, lease, cleared=cleared), versioned=False)


def stop(store: Store, by: str, *, clearances: int = 0, reason: str = "PinIncorrect") -> bool:
    return store.change(lambda tx: tx.logins.stop(LoginStop(TOKEN, NOW, by, reason), clearances))


def clearance(store: Store) -> None:
    """Stop logins, and clear them: the next login may try the PIN whatever the token says."""
    stop(store, "b on host", clearances=store.query(lambda tx: tx.logins.clearances(TOKEN)))
    clear(store)


def clear(store: Store) -> None:
    store.change(lambda tx: tx.logins.clear(TOKEN))


def test_one_holder_at_a_time(store: Store) -> None:
    version = store.version()
    first = claim(store, "a")
    assert not claim_login(store, TOKEN, "b", NOW).granted
    again = claim(store, "a")
    assert again.term > first.term, "a restarted front process keeps its turn"
    with pytest.raises(LeaseLost):
        release(store, first)
    assert not claim_login(store, TOKEN, "b", NOW).granted, "only the holder can release it"
    taken = claim(store, "b", HOLD)
    with pytest.raises(LeaseLost):
        release(store, again)
    release(store, taken)
    release(store, claim(store, "a"))
    assert store.version() == version, "turns make no daemon load anything"


def test_a_stop_holds_until_it_is_cleared_and_a_clearance_is_good_for_one_login(store: Store) -> None:
    turn = claim(store, "a")
    version = store.version()
    assert stop(store, "a on host")
    assert store.version() == version + 1
    assert stop(store, "b on host", reason="later")
    assert store.version() == version + 1, "an earlier stop keeps its reason: nothing has changed"
    assert [(found.by, found.reason) for found in stops(store)] == [("a on host", "PinIncorrect")]
    found = claim_login(store, TOKEN, "b", NOW)
    assert (found.granted, found.stop) == (False, stops(store)[0])
    assert claim_login(store, "other", "b", NOW).granted, "another token is not affected"
    clear(store)
    assert stops(store) == []
    with pytest.raises(NotFound):
        clear(store)
    with pytest.raises(LeaseLost):
        release(store, turn, cleared=True)
    found = claim_login(store, TOKEN, "b", NOW)
    assert (found.cleared, found.clearances) == (True, 1)
    assert found.lease is not None
    release(store, found.lease, cleared=True)
    found = claim_login(store, TOKEN, "c", NOW)
    assert found.cleared, "an unused clearance is restored"
    assert found.lease is not None
    release(store, found.lease)
    assert not claim_login(store, TOKEN, "a", NOW).cleared


def test_a_late_refusal_stops_logins_though_another_daemon_has_the_turn(store: Store) -> None:
    claim(store, "a")
    turn = claim(store, "b", HOLD)
    assert stop(store, "a on host")
    assert len(stops(store)) == 1, "the token has refused a PIN, whoever has the turn now"
    with pytest.raises(LeaseLost):
        release(store, turn)


@pytest.mark.usefixtures("impatient")
async def test_a_daemon_that_waits_for_its_turn_says_so(store: Store) -> None:
    """As after a daemon that was killed during its login: the turn ends by itself, 15 s after it began."""
    turn = claim(store, "b", datetime.now(UTC) - NOW)
    daemon = Watched(store, "a")
    await daemon.go_on_until(lambda: bool(daemon.waited))
    assert daemon.starts == []
    assert "another login" in daemon.waited[0] and "15 s" in daemon.waited[0]
    release(store, turn)
    await daemon.go_on_until(lambda: daemon.starts == [Starts.ONE])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("failed", [False, True], ids=["first", "start-failed"])
async def test_a_stop_gives_the_turn_back(store: Store, failed: bool) -> None:
    """The next daemon, or this one with another configuration, logs in at once."""
    daemon = Watched(store, "a")
    following = await daemon.go_on_until_first()
    assert not claim_login(store, TOKEN, "b", datetime.now(UTC)).granted
    if failed:
        daemon.guard.start_failed(TOKEN)
    await daemon.guard.close(5)
    await following
    assert claim_login(store, TOKEN, "b", datetime.now(UTC)).granted


@pytest.mark.usefixtures("impatient")
async def test_a_stop_gives_a_clearance_back_only_if_it_was_not_used(store: Store) -> None:
    for failed in (True, False):
        clearance(store)
        daemon = Watched(store, "a")
        following = await daemon.go_on_until_first()
        if failed:
            daemon.guard.start_failed(TOKEN)
        await daemon.guard.close(5)
        await following
        claimed = claim_login(store, TOKEN, "b", datetime.now(UTC))
        assert (claimed.granted, claimed.cleared) == (True, failed)
        assert claimed.lease is not None
        release(store, claimed.lease)


@pytest.mark.usefixtures("impatient")
async def test_a_stop_waits_for_a_login_and_stops_all_if_it_is_refused(store: Store) -> None:
    """With a wrong PIN, the next daemon would try it a second time."""
    daemon = Watched(store, "a")
    following = await daemon.go_on_until_first()
    daemon.logging_in = True
    closing = asyncio.create_task(daemon.guard.close(5))
    await asyncio.sleep(0)
    daemon.guard.login_refused(TOKEN, "PinIncorrect")
    daemon.logging_in = False
    await closing
    await following
    assert [found.by for found in stops(store)] == ["a"]


@pytest.mark.usefixtures("impatient")
async def test_a_stop_keeps_the_turn_of_a_login_that_takes_long(store: Store) -> None:
    daemon = Watched(store, "a")
    following = await daemon.go_on_until_first()
    daemon.logging_in = True
    await daemon.guard.close(0.1)
    following.cancel()
    assert not claim_login(store, TOKEN, "b", datetime.now(UTC)).granted


async def test_a_daemon_without_its_module_leaves_the_turn_to_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others ask every `ASK_S`; a daemon whose workers fail would have the turn nearly all the time."""
    monkeypatch.setattr(module, "ASK_S", 0.2)
    asked: list[float] = []

    def claim_noted(*arguments: Any) -> LoginClaim:
        asked.append(time.monotonic())
        return claim_login(*arguments)

    monkeypatch.setattr(module, "claim_login", claim_noted)
    broken = Watched(store, "a")
    following = await broken.go_on_until_first()
    failed = time.monotonic()
    broken.guard.start_failed(TOKEN)
    await eventually(lambda: claim_login(store, TOKEN, "b", datetime.now(UTC)).granted)
    await eventually(lambda: len(asked) == 2)
    assert asked[1] - failed > 0.2
    following.cancel()


def test_a_late_refusal_does_not_undo_a_clearance(store: Store) -> None:
    claim(store, "a")
    assert stop(store, "b on host")
    clear(store)
    assert not stop(store, "a on host", clearances=0)
    assert stops(store) == []
    found = claim_login(store, TOKEN, "a", NOW)
    assert (found.cleared, found.clearances) == (True, 1), "the clearance is there for one login"
    assert stop(store, "a on host", clearances=found.clearances), "and a refusal under it stands"
    assert len(stops(store)) == 1


def test_a_late_holder_does_not_bring_a_clearance_back(store: Store) -> None:
    assert stop(store, "a on host")
    clear(store)
    late = claim(store, "a")
    taken = claim(store, "b", HOLD)
    with pytest.raises(LeaseLost):
        release(store, late, cleared=True)
    release(store, taken)
    assert not claim_login(store, TOKEN, "c", NOW).cleared


class Daemon:
    """The parts of a daemon that are involved in logins; `try_pin` stands for the token."""

    def __init__(self, store: Store, name: str, try_pin: Callable[[], bool], draw: random.Random) -> None:
        self.store, self.name, self.try_pin, self.draw = store, name, try_pin, draw
        self.starts = Starts.NONE
        self.task: asyncio.Task[None] | None = None
        self.workers: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.starts = Starts.NONE
        self.logins = LoginGuard(
            self.store,
            holder=self.name,
            by=self.name,
            tell=self._tell,
            hold=lambda token, reason: None,
            record=lambda stop: None,
        )
        self.logins.apply([TOKEN])
        self.task = asyncio.create_task(self.logins.follow())
        self.workers = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Like kill -9 for the workers; the last write of the front process to the store may or may not be done."""
        for task in (self.workers, self.task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _tell(self, message: PermitStarts) -> None:
        self.starts = message.starts

    async def _work(self) -> None:
        """The launcher: start the workers that may be started; each logs in once."""
        while True:
            await asyncio.sleep(self.draw.uniform(0.0, 0.01))
            if self.starts is Starts.NONE:
                continue
            if self.try_pin():
                self.logins.logged_in(TOKEN)
                return
            self.starts = Starts.NONE  # as the launcher does after the exit status of that worker
            self.logins.login_refused(TOKEN, "PinIncorrect")


@pytest.mark.parametrize("seed", range(3))
async def test_three_daemons_try_a_wrong_pin_once_until_it_is_cleared(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.01)
    draw = random.Random(seed)
    wrong: list[int] = []
    right = False

    def try_pin() -> bool:
        if not right:
            wrong.append(generation)
        return right

    daemons = [Daemon(store, name, try_pin, draw) for name in ("a", "b", "c")]
    for generation in range(3):
        for daemon in daemons:
            daemon.start()
        async with asyncio.timeout(10):
            while len(wrong) <= generation or not await asyncio.to_thread(stops, store):
                await asyncio.sleep(0.005)
        for _ in range(4):
            daemon = draw.choice(daemons)
            await daemon.stop()
            daemon.start()
            await asyncio.sleep(draw.uniform(0.0, 0.05))
        for daemon in daemons:
            await daemon.stop()
        assert wrong == list(range(generation + 1)), f"one wrong login for each clearance, seed {seed}"
        clear(store)
    right = True
    for daemon in daemons:
        daemon.start()
    async with asyncio.timeout(10):
        while any(daemon.starts is not Starts.ALL for daemon in daemons):
            await asyncio.sleep(0.005)
    for daemon in daemons:
        await daemon.stop()
    assert stops(store) == []
    assert len(wrong) == 3


class Watched:
    """A login guard whose store calls and messages a test sees; `go_on` lets it follow the store for a while."""

    def __init__(self, store: Store, name: str) -> None:
        self.starts: list[Starts] = []
        self.recorded: list[LoginStop] = []
        self.waited: list[str] = []
        self.logging_in = False
        self.guard = LoginGuard(
            store,
            holder=name,
            by=name,
            tell=lambda message: self.starts.append(message.starts),
            hold=lambda token, reason: None,
            record=self.recorded.append,
            wait=lambda token, reason: self.waited.append(reason),
            starting=lambda token: self.logging_in,
        )
        self.guard.apply([TOKEN])

    async def go_on_until_first(self) -> asyncio.Task[None]:
        """Follow the store from now on; return when it has its turn."""
        following = asyncio.create_task(self.guard.follow())
        await eventually(lambda: self.starts[-1:] == [Starts.ONE])
        return following

    async def go_on_until(self, condition: Callable[[], bool]) -> None:
        """Follow the store until the condition holds; the daemon is suspended otherwise."""
        following = asyncio.create_task(self.guard.follow())
        try:
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.005)
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_a_suspended_daemon_reports_a_refusal_after_a_clearance_and_waits_for_its_turn(
    store: Store,
) -> None:
    late = Watched(store, "late")
    await late.go_on_until(lambda: late.starts == [Starts.ONE])
    assert stop(store, "b on host")
    clear(store)
    late.guard.login_refused(TOKEN, "PinIncorrect")
    assert late.guard.stop_of(TOKEN) is not None, "this daemon stops at once"
    await late.go_on_until(lambda: late.starts[-1] is Starts.ONE)
    assert stops(store) == [], "the clearance stands"
    assert late.starts == [Starts.ONE, Starts.NONE, Starts.ONE], "one login, in its turn"
    late.guard.login_refused(TOKEN, "PinIncorrect")
    await late.go_on_until(lambda: bool(stops(store)))
    assert stops(store)[0].by == "late", "a refusal under that clearance stops all"


@pytest.mark.usefixtures("impatient")
async def test_a_daemon_that_knows_of_a_clearance_stops_all_logins_with_a_later_refusal(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each daemon that had been logged in before the clearance would try a PIN that was changed since."""
    daemon = Watched(store, "a")
    await daemon.go_on_until(lambda: daemon.starts == [Starts.ONE])
    daemon.guard.logged_in(TOKEN)
    assert stop(store, "b on host")
    clear(store)
    reads: list[Any] = []
    query = store.query
    monkeypatch.setattr(store, "query", lambda action: reads.append(query(action)) or reads[-1])

    def has_read_twice() -> bool:  # what it read first, it has compared by then
        daemon.guard.store_changed()
        return len([read for read in reads if read == ([], {TOKEN: 1})]) >= 2

    await daemon.go_on_until(has_read_twice)
    daemon.guard.login_refused(TOKEN, "PinIncorrect")
    await daemon.go_on_until(lambda: bool(stops(store)))
    assert [found.by for found in stops(store)] == ["a"]

"""Logins to tokens: three daemons that share a store try a wrong PIN once, across restarts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from hsmd.daemon.front.tokens import login_guard as module
from hsmd.daemon.front.tokens.login_guard import HOLD, LoginGuard, claim_login
from hsmd.daemon.ipc.launcher_messages import PermitStarts, Starts
from hsmd.daemon.store import LoginStop, Store
from hsmd.errors import NotFound
from tests.support.store import NOW

TOKEN = "main"


def stops(store: Store) -> list[LoginStop]:
    return store.query(lambda tx: tx.logins.stops())


def test_one_holder_at_a_time(store: Store) -> None:
    assert claim_login(store, TOKEN, "a", NOW).granted
    version = store.version()
    assert not claim_login(store, TOKEN, "b", NOW).granted
    assert store.version() == version, "waiting writes nothing"
    assert claim_login(store, TOKEN, "a", NOW).granted, "a restarted front process keeps its turn"
    store.change(lambda tx: tx.logins.release(TOKEN, "b"))
    assert not claim_login(store, TOKEN, "b", NOW).granted, "only the holder can release it"
    assert claim_login(store, TOKEN, "b", NOW + HOLD).granted, "a turn expires"
    store.change(lambda tx: tx.logins.release(TOKEN, "b"))
    assert claim_login(store, TOKEN, "a", NOW).granted


def test_a_stop_holds_until_it_is_cleared_and_a_clearance_is_good_for_one_login(store: Store) -> None:
    claim_login(store, TOKEN, "a", NOW)
    first = LoginStop(TOKEN, NOW, "a on host", "PinIncorrect")
    store.change(lambda tx: tx.logins.stop(first))
    store.change(lambda tx: tx.logins.stop(LoginStop(TOKEN, NOW + HOLD, "b on host", "later")))
    assert stops(store) == [first], "the first reason stays"
    claim = claim_login(store, TOKEN, "b", NOW)
    assert (claim.granted, claim.stop) == (False, first)
    assert claim_login(store, "other", "b", NOW).granted, "another token is not affected"
    store.change(lambda tx: tx.logins.clear(TOKEN))
    assert stops(store) == []
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.logins.clear(TOKEN))
    assert claim_login(store, TOKEN, "b", NOW).cleared
    store.change(lambda tx: tx.logins.release(TOKEN, "b", cleared=True))
    assert claim_login(store, TOKEN, "c", NOW).cleared, "an unused clearance is restored"
    store.change(lambda tx: tx.logins.release(TOKEN, "c"))
    assert not claim_login(store, TOKEN, "a", NOW).cleared


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
        store.change(lambda tx: tx.logins.clear(TOKEN))
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

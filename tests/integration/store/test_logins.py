"""Logins to tokens, through the store: three daemons that share it try a wrong PIN once, whatever restarts when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from hsmd.daemon.front.tokens import login_guard as module
from hsmd.daemon.front.tokens.login_guard import LoginGuard
from hsmd.daemon.ipc.launcher_messages import Starts
from hsmd.daemon.store import LoginStop, Store
from hsmd.errors import NotFound
from tests.support.store import NOW

TOKEN = "main"
HOLD = timedelta(seconds=15)


def test_one_holder_at_a_time(store: Store) -> None:
    assert store.claim_login(TOKEN, "a", NOW, HOLD).granted
    version = store.version()
    assert not store.claim_login(TOKEN, "b", NOW, HOLD).granted
    assert store.version() == version, "waiting writes nothing"
    assert store.claim_login(TOKEN, "a", NOW, HOLD).granted, (
        "a front that was started again has its turn still"
    )
    store.release_login(TOKEN, "b")
    assert not store.claim_login(TOKEN, "b", NOW, HOLD).granted, "only the holder gives it back"
    assert store.claim_login(TOKEN, "b", NOW + HOLD, HOLD).granted, "a turn ends by itself"
    store.release_login(TOKEN, "b")
    assert store.claim_login(TOKEN, "a", NOW, HOLD).granted


def test_a_stop_holds_until_it_is_cleared_and_a_clearance_is_good_for_one_login(store: Store) -> None:
    store.claim_login(TOKEN, "a", NOW, HOLD)
    first = LoginStop(TOKEN, NOW, "a on host", "PinIncorrect")
    store.stop_logins(first)
    store.stop_logins(LoginStop(TOKEN, NOW + HOLD, "b on host", "later"))
    assert store.login_stops() == [first], "the first reason stays"
    claim = store.claim_login(TOKEN, "b", NOW, HOLD)
    assert (claim.granted, claim.stop) == (False, first)
    assert store.claim_login("other", "b", NOW, HOLD).granted, "another token is another matter"
    store.clear_logins(TOKEN)
    assert store.login_stops() == []
    with pytest.raises(NotFound):
        store.clear_logins(TOKEN)
    assert store.claim_login(TOKEN, "b", NOW, HOLD).cleared
    store.release_login(TOKEN, "b", cleared=True)
    assert store.claim_login(TOKEN, "c", NOW, HOLD).cleared, "it was not used and went back"
    store.release_login(TOKEN, "c")
    assert not store.claim_login(TOKEN, "a", NOW, HOLD).cleared


class Daemon:
    """Front, launcher and workers of one daemon, as far as logins go; `try_pin` is the token."""

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
        """Like kill -9 for the workers; the front's last word to the store may or may not get there."""
        for task in (self.workers, self.task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _tell(self, token: str, starts: Starts, cleared: bool) -> None:
        self.starts = starts

    async def _work(self) -> None:
        """The launcher: start what may be started; each worker logs in once."""
        while True:
            await asyncio.sleep(self.draw.uniform(0.0, 0.01))
            if self.starts is Starts.NONE:
                continue
            if self.try_pin():
                self.logins.logged_in(TOKEN)
                return
            self.starts = Starts.NONE  # as the launcher does when a worker says so by its exit status
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
            while len(wrong) <= generation or not await asyncio.to_thread(store.login_stops):
                await asyncio.sleep(0.005)
        for _ in range(4):
            daemon = draw.choice(daemons)
            await daemon.stop()
            daemon.start()
            await asyncio.sleep(draw.uniform(0.0, 0.05))
        for daemon in daemons:
            await daemon.stop()
        assert wrong == list(range(generation + 1)), f"one wrong login for each clearance, seed {seed}"
        store.clear_logins(TOKEN)
    right = True
    for daemon in daemons:
        daemon.start()
    async with asyncio.timeout(10):
        while any(daemon.starts is not Starts.ALL for daemon in daemons):
            await asyncio.sleep(0.005)
    for daemon in daemons:
        await daemon.stop()
    assert store.login_stops() == []
    assert len(wrong) == 3

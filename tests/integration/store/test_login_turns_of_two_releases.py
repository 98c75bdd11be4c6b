"""Turns to log in to a token while daemons of an earlier release, which know no leases, share the store."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hsmd.daemon.front.tokens.login_guard import HOLD, claim_login
from hsmd.daemon.store import Lease, LoginStop, Store
from hsmd.errors import LeaseLost
from tests.support.store import NOW
from tests.support.takeover.releases import Release, unpack_wheel

TOKEN = "main"
ROUNDS = 25
COMMANDS = """
import os, sys
from datetime import datetime, timedelta
from hsmd.daemon.store import LoginStop, Store, login_rows

TOKEN, HOLD = "main", timedelta(seconds=15)
store = Store(sys.argv[1])
look = login_rows.look

def look_slowly(*arguments):
    found = look(*arguments)
    pass_some_time()
    return found

def pass_some_time():
    for _ in range(10):
        store.version()


def claim(now):
    return store.claim_login(TOKEN, "old", datetime.fromisoformat(now), HOLD).granted

def release(now):
    store.release_login(TOKEN, "old")

def stop(now):
    store.stop_logins(LoginStop(TOKEN, datetime.fromisoformat(now), "old on host", "PinIncorrect"))

def clear(now):
    store.clear_logins(TOKEN)

def take_turns(now, file, rounds):
    login_rows.look = look_slowly
    for _ in range(int(rounds)):
        while not claim(now):
            pass
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
        pass_some_time()
        os.unlink(file)
        release(now)

for line in sys.stdin:
    name, *arguments = line.split()
    print(globals()[name](*arguments), flush=True)
"""
"""What a daemon of the earlier release does, a line for each call."""


class OldDaemon:
    """A process that runs the store's code of the wheel in tests/vectors/takeover."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, name: str, at: timedelta = timedelta(), *arguments: object) -> None:
        assert self._process.stdin is not None
        print(name, (NOW + at).isoformat(), *arguments, file=self._process.stdin, flush=True)

    def finish(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, name: str, at: timedelta = timedelta()) -> str:
        self.start(name, at)
        return self.finish()


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return unpack_wheel(tmp_path_factory.mktemp("old"))


@pytest.fixture
def old(release_before: Release, store: Store, empty_url: str) -> Iterator[OldDaemon]:
    process = subprocess.Popen(
        [*release_before.python, "-c", COMMANDS, empty_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=release_before.environment,
        cwd=release_before.directory,
    )
    try:
        yield OldDaemon(process)
    finally:
        process.kill()
        process.communicate()


def claim(store: Store, at: timedelta = timedelta(), holder: str = "new") -> Lease | None:
    return claim_login(store, TOKEN, holder, NOW + at).lease


def release(store: Store, lease: Lease) -> None:
    store.change(lambda tx: tx.logins.release(TOKEN, lease), versioned=False)


def test_each_respects_the_turn_of_the_other(store: Store, old: OldDaemon) -> None:
    lease = claim(store)
    assert lease is not None
    assert old.do("claim") == "False"
    release(store, lease)
    assert old.do("claim") == "True"
    assert claim(store) is None
    old.do("release")
    lease = claim(store)
    assert lease is not None
    assert old.do("claim", HOLD) == "True", "a turn expires for both"
    assert claim(store, HOLD) is None
    with pytest.raises(LeaseLost):
        release(store, lease)
    assert claim(store, 2 * HOLD) is not None


def test_each_respects_the_stops_and_clearances_of_the_other(store: Store, old: OldDaemon) -> None:
    lease = claim(store)
    assert lease is not None
    old.do("stop")
    assert claim(store) is None
    with pytest.raises(LeaseLost):
        release(store, lease)
    old.do("clear")
    found = claim_login(store, TOKEN, "other", NOW)
    assert found.cleared, "the turn that the old daemon ended is free"
    record = LoginStop(TOKEN, NOW, "new on host", "PinIncorrect")
    assert store.change(lambda tx: tx.logins.stop(record, found.clearances))
    assert old.do("claim") == "False"
    store.change(lambda tx: tx.logins.clear(TOKEN))
    assert old.do("claim") == "True"


def test_old_and_new_daemons_never_have_the_turn_at_once(
    make_store: Callable[[], Store], old: OldDaemon, tmp_path: Path
) -> None:
    store, turn = make_store(), tmp_path / "turn"
    assert old.do("claim") == "True"
    old.do("release")
    old.start("take_turns", timedelta(), turn, ROUNDS)
    for _ in range(ROUNDS):
        while (lease := claim(store)) is None:
            pass
        turn.touch(exist_ok=False)
        for _ in range(10):
            store.version()
        turn.unlink()
        release(store, lease)
    assert old.finish() == "None", "the old daemon never found the turn taken"

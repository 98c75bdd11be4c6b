"""A holder process that is stopped beyond its term and goes on: its late writes are refused, those of the next one stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hsmd
from hsmd.daemon.front.tokens.login_guard import claim_login
from hsmd.daemon.store import Lease, LoginStop, Readers, Store
from hsmd.protocol.roles import Role
from tests.support.polling import wait_until
from tests.support.store import NOW

TERM = timedelta(seconds=2)
READERS = Readers(roles=frozenset({Role.OPERATOR}))
HOLDER = f"""
import sys
from datetime import UTC, datetime, timedelta
from hsmd.daemon.store import Readers, Store
from hsmd.errors import LeaseLost
from hsmd.protocol.roles import Role

store = Store(sys.argv[1])
readers = Readers(roles=frozenset({{Role.OPERATOR}}))

def write(tx):
    tx.leases.fence(lease)
    tx.events.append("job.done", "stopped", readers=readers, payload={{}}, now=datetime.now(UTC))

lease = store.change(
    lambda tx: tx.leases.acquire("job", "stopped", datetime.now(UTC), timedelta(seconds={TERM.seconds})), versioned=False
)
print(lease.term, flush=True)
for line in sys.stdin:
    try:
        store.change(write, versioned=False)
    except LeaseLost as lost:
        print("refused:", lost.text, flush=True)
    else:
        print("written", flush=True)
"""
GUARD = f"""
import asyncio, sys
from datetime import timedelta
from hsmd.daemon.front.tokens import login_guard
from hsmd.daemon.ipc.launcher_messages import Starts
from hsmd.daemon.store import Store

login_guard.HOLD = timedelta(seconds={TERM.seconds})

async def main():
    guard = login_guard.LoginGuard(
        Store(sys.argv[1]),
        holder="stopped",
        by="stopped",
        tell=lambda message: print(message.starts.name, message.cleared, flush=True),
        hold=lambda token, reason: None,
        record=lambda stop: None,
    )
    guard.apply(["main"])
    following = asyncio.create_task(guard.follow())
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "failed":
            guard.start_failed("main")
        else:
            guard.login_refused("main", line)

asyncio.run(main())
"""


class Holder:
    """A process that holds a lease."""

    def __init__(self, program: str, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def stop(self) -> None:
        """Stop the process as SIGSTOP does, and wait until it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it has stopped", 10)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def start(empty_url: str, store: Store) -> Iterator[Callable[[str], Holder]]:
    started: list[Holder] = []

    def start(program: str) -> Holder:
        started.append(Holder(program, empty_url))
        return started[-1]

    yield start
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def take(store: Store, acquire: Callable[[Store], Lease | None]) -> Lease:
    """Wait for the end of the other holder's term."""
    taken: list[Lease] = []

    def try_it() -> bool:
        lease = acquire(store)
        taken.extend([lease] if lease else [])
        return bool(taken)

    began = time.monotonic()
    wait_until(try_it, "the other's term is over", 20)
    assert time.monotonic() - began > 0.1, "not at once"
    return taken[0]


def test_a_late_write_is_refused_by_its_term(store: Store, start: Callable[[str], Holder]) -> None:
    holder = start(HOLDER)
    assert holder.line() == "1"
    holder.tell("write")
    assert holder.line() == "written", "a holder within its term can write"
    holder.stop()
    lease = take(
        store,
        lambda s: s.change(
            lambda tx: tx.leases.acquire("job", "next", datetime.now(UTC), TERM), versioned=False
        ),
    )
    assert lease.term == 2
    store.change(
        lambda tx: (
            tx.leases.fence(lease),
            tx.events.append("job.done", "next", readers=READERS, payload={}, now=NOW),
        ),
        versioned=False,
    )
    holder.tell("write")
    holder.go_on()
    assert holder.line() == "refused: another holder has taken over in the meantime; nothing was changed"
    events = store.query(lambda tx: tx.events.page(READERS, None)).events
    assert [event.subject for event in events] == ["stopped", "next"]


def cleared_stop(store: Store) -> None:
    record = LoginStop("main", NOW, "another", "PinIncorrect")
    store.change(lambda tx: tx.logins.stop(record, tx.logins.clearances("main")))
    store.change(lambda tx: tx.logins.clear("main"))


def claim(store: Store) -> Lease | None:
    return claim_login(store, "main", "next", datetime.now(UTC)).lease


def test_a_daemon_that_was_stopped_gives_no_turn_and_no_clearance_back(
    store: Store, start: Callable[[str], Holder]
) -> None:
    cleared_stop(store)
    holder = start(GUARD)
    assert holder.line() == "ONE True", "it may log in, with the operator's clearance"
    holder.stop()
    lease = take(store, claim)
    holder.tell("failed")
    holder.go_on()
    assert holder.line() == "NONE True", "it gives both back, too late"
    assert not claim_login(store, "main", "third", datetime.now(UTC)).granted, "the turn of the next stands"
    store.change(lambda tx: tx.logins.release("main", lease), versioned=False)
    assert holder.line() == "ONE False", "it gets a turn again, without the clearance"


def test_a_daemon_that_was_stopped_does_not_undo_a_clearance_with_its_refusal(
    store: Store, start: Callable[[str], Holder]
) -> None:
    holder = start(GUARD)
    assert holder.line() == "ONE False"
    holder.stop()
    take(store, claim)
    cleared_stop(store)
    holder.tell("PinIncorrect")
    holder.go_on()
    assert holder.line() == "NONE False", "it stops at once"
    assert holder.line() == "ONE True", "and tries in its turn, under the clearance"
    assert store.query(lambda tx: tx.logins.stops()) == []
    holder.tell("PinIncorrect")
    wait_until(lambda: len(store.query(lambda tx: tx.logins.stops())) == 1, "that refusal stops all", 10)

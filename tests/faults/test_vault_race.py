"""A key of the vault with a maximum of uses, many requesters, two daemons on PostgreSQL, and kills at named points.

Nothing is given out beyond the maximum, each request that was counted is in one log, once, and the use beyond the maximum is
told once. `scripts/soak vault-race` runs many rounds with five kills each.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.client import Connection
from hsmd.daemon.store import Store
from hsmd.errors import Conflict, HsmdError
from hsmd.protocol import messages
from hsmd.protocol.messages import Event
from hsmd.system.log_files import log_lines
from hsmd.transparency.verification import verify_log
from tests.support.daemon import Daemon, public_line, running_daemon
from tests.support.fleet import free_port, twin_of
from tests.support.polling import eventually, wait_until
from tests.support.postgresql import Cluster
from tests.support.start_hooks import python_with
from tests.support.vault import DENY, OWNER, Deposit, Owner, add_client, confirm

ROUNDS = int(os.environ.get("HSMD_VAULT_RACE_ROUNDS", "1"))
KILLS = int(os.environ.get("HSMD_VAULT_RACE_KILLS", "3"))
"""Of each round; the soak kills five times."""
MOST, REQUESTERS, LOGINS = 10, 64, 4
PAUSE_S = 8.0
"""Longest pause of a requester: together they ask about ten times in a second, so that kills fall between uses."""
CHECKER = "relying"
BEFORE_COUNT, BEFORE_RECORD, BEFORE_SENDING = (
    "before the count",
    "between the count and its record",
    "between the record and the answer",
)
FRONT, WHOLE = "front", "whole daemon"
PLAN = (
    (BEFORE_RECORD, FRONT),
    (BEFORE_SENDING, WHOLE),
    (BEFORE_COUNT, FRONT),
    (BEFORE_RECORD, WHOLE),
    (BEFORE_SENDING, FRONT),
)
"""What is killed where, in turn."""
KILL_AT = """
import contextlib, os, signal, sys
from pathlib import Path

if "hsmd.daemon.front.app" in sys.orig_argv:
    from hsmd.daemon.front.control.dispatcher import Dispatcher
    from hsmd.daemon.front.vault.acquisition_records import AcquisitionRecords

    def reached(point):
        armed = Path({armed!r}) / point
        with contextlib.suppress(FileNotFoundError):  # not armed, or reached by the other daemon
            victim = armed.read_text()
            armed.unlink()
            if victim == {whole!r}:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    begin, record, end = AcquisitionRecords.begin, AcquisitionRecords.record, Dispatcher._end

    def killed_before_count(self):
        reached({before_count!r})
        return begin(self)

    def killed_before_record(self, ticket, acquisition):
        reached({before_record!r})
        return record(self, ticket, acquisition)

    async def killed_before_sending(self, identity, begun, event, **more):
        await end(self, identity, begun, event, **more)
        if begun[0].request.op() == "vault.get":
            reached({before_sending!r})

    AcquisitionRecords.begin, AcquisitionRecords.record = killed_before_count, killed_before_record
    Dispatcher._end = killed_before_sending
"""
pytestmark = pytest.mark.timeout(120 + 90 * ROUNDS)


@dataclass
class Site:
    """Two daemons, and a directory in which a file with the name of a point kills who gets there first."""

    daemons: list[Daemon]
    armed: Path
    owner: Owner = field(default_factory=Owner)

    def __post_init__(self) -> None:
        self.store = Store(self.first.store_url)
        self.armed.mkdir()
        add_client(self.first, OWNER, "owner")
        add_client(self.first, CHECKER, "checker")
        for login in self.logins[1:]:
            key = asyncssh.generate_private_key("ssh-ed25519")
            self.first._write_key(login, key)
            self.first.ask(messages.ClientAdd(OWNER, "owner", public_line(key)))

    @property
    def first(self) -> Daemon:
        return self.daemons[0]

    @property
    def logins(self) -> list[str]:
        return [OWNER, *(f"{OWNER}-{number}" for number in range(1, LOGINS))]

    def connection(self, daemon: Daemon, login: str = OWNER, client: str = OWNER) -> Connection:
        """With the key of a login, which is in the directory of the first daemon."""
        return Connection(daemon.endpoint(client, identity_file=self.first.directory / login))

    def counts(self, record: str) -> tuple[int, int]:
        """Requests and releases, as the store has counted them."""
        version = self.store.query(lambda tx: tx.vault_versions.get(OWNER, record))
        return version.requests, version.released

    def kept(self) -> int:
        """How many acquisitions the store keeps because they are in no log, or were not removed yet."""
        return self.store.query(
            lambda tx: tx.connection.exec_driver_sql("SELECT count(*) FROM vault_acquisitions").scalar_one()
        )

    def acquired(self, record: str) -> list[list[dict[str, Any]]]:
        """The records of acquisitions in each daemon's log."""
        return [
            [each for each in daemon.audit("vault.acquired") if each["fields"]["record"] == record]
            for daemon in self.daemons
        ]

    def restart_killed(self) -> None:
        """Start each daemon whose launcher was killed."""
        for daemon in self.daemons:
            if daemon.process is not None and daemon.process.poll() is not None:
                daemon.end()
                daemon.begin()


@pytest.fixture
def site(tmp_path: Path, cluster: Cluster) -> Iterator[Site]:
    cluster.run("CREATE DATABASE vault_race")
    armed = tmp_path / "armed"
    hook = KILL_AT.format(
        armed=str(armed),
        whole=WHOLE,
        before_count=BEFORE_COUNT,
        before_record=BEFORE_RECORD,
        before_sending=BEFORE_SENDING,
    )
    settings = {
        "python": python_with(tmp_path / "venv", hook),
        "addresses": [f"127.0.0.1:{free_port()}"],
        "store_url": cluster.url("vault_race"),
    }
    with ExitStack() as stack:
        first = stack.enter_context(running_daemon(tmp_path / "daemon", **settings))
        twin = twin_of(first, tmp_path / "twin")
        stack.callback(twin.end)
        built = Site([first, twin], armed)
        stack.callback(built.store.close)
        twin.start()
        yield built
    cluster.run("DROP DATABASE vault_race WITH (FORCE)")


@dataclass
class Race:
    """What the requesters of one record got."""

    site: Site
    deposit: Deposit
    received: list[int] = field(default_factory=list)
    """Number of the release of each envelope that came to its requester, and was opened there."""
    refused: set[int] = field(default_factory=set)
    """Requesters that were told that the record is used up."""
    failures: Counter[str] = field(default_factory=Counter)
    allowed: int = 0
    """How many uses may be counted before the next kill; so kills fall between uses, however long daemons are down."""
    killed: int = 0
    armed: bool = False

    @property
    def record(self) -> str:
        return self.deposit.statement.record

    async def run(self, kills: int, draw: random.Random) -> None:
        """64 requesters ask until each of them is refused; what gets to the points meanwhile is killed."""
        async with AsyncExitStack() as stack:
            connections = []
            for daemon in self.site.daemons:
                for login in self.site.logins * 2:
                    connections.append(self.site.connection(daemon, login))
                    await connections[-1].start()
                    stack.push_async_callback(connections[-1].close)
            requesters = [
                asyncio.create_task(self._request(number, connections[number % len(connections)], draw))
                for number in range(REQUESTERS)
            ]
            try:
                for number, (point, victim) in enumerate(PLAN[:kills]):
                    self.allowed = min(MOST - 1, (number + 1) * MOST // kills)
                    await self._used(number * MOST // kills)
                    await self._kill(point, victim)
                    self.killed += 1
                self.allowed = MOST
                async with asyncio.timeout(60):
                    await asyncio.gather(*requesters)
            except TimeoutError:
                pytest.fail(f"{self.site.counts(self.record)}, {len(self.refused)} refused, {self.failures}")
            finally:
                for task in requesters:
                    task.cancel()

    async def _request(self, number: int, connection: Connection, draw: random.Random) -> None:
        while number not in self.refused or self.killed < KILLS:
            await asyncio.sleep(draw.random() * (2.0 if self.allowed == MOST else PAUSE_S))
            if (
                not self.armed
                and self.allowed <= (await asyncio.to_thread(self.site.counts, self.record))[1] < MOST
            ):
                continue
            try:
                got = await self.site.owner.get(connection, self.record)
            except HsmdError as error:
                if isinstance(error, Conflict) and "is not given out" in error.text:
                    self.refused.add(number)
                self.failures[f"{type(error).__name__}: {error.text[:60]}"] += 1
            else:
                assert self.site.owner.open(got)
                self.received.append(got.released)

    async def _used(self, count: int) -> None:
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(self.site.counts, self.record))[1] < count:
                await asyncio.sleep(0.01)

    async def _kill(self, point: str, victim: str) -> None:
        """Wait until one of the daemons was killed at a point, and start it again if it does not do so itself."""
        (self.site.armed / f".{point}").write_text(victim)
        (self.site.armed / f".{point}").rename(self.site.armed / point)
        self.armed = True
        await eventually(lambda: not (self.site.armed / point).exists(), 60)
        self.armed = False
        if victim == WHOLE:
            await asyncio.to_thread(self._wait_for_end)
            await asyncio.to_thread(self.site.restart_killed)

    def _wait_for_end(self) -> None:
        processes = [daemon.process for daemon in self.site.daemons]
        wait_until(lambda: any(each is not None and each.poll() is not None for each in processes))

    def check(self) -> str:
        """Compare counters, both logs and what requesters got; return the figures."""
        wait_until(lambda: not self.site.kept(), "each counted request to be recorded, and forgotten")
        requests, released = self.site.counts(self.record)
        assert released == MOST
        assert len(self.received) == len(set(self.received)) <= MOST
        logs = self.site.acquired(self.record)
        records = [each for log in logs for each in log]
        fields = [each["fields"] for each in records]
        assert len(records) == requests, "counted requests are the records of both logs"
        assert sorted(each["request"] for each in fields) == list(range(1, requests + 1))
        uses = {each["released"]: each for each in fields if "released" in each}
        assert sorted(each["released"] for each in fields if "released" in each) == list(range(1, MOST + 1))
        assert set(self.received) <= uses.keys()
        assert all(each["refusal"] == "limit" for each in fields if "released" not in each)
        assert len({each["ticket"] for each in fields}) == requests, "a ticket is one request"
        for each in records:
            first, _, random_part = each["fields"]["ticket"].partition("-")
            assert int(first) <= each["index"], "no record before this index has the ticket"
            assert len(random_part) == 32
        late = sum("counted_at" in each for each in fields)
        return (
            f"{requests} requests in {' + '.join(str(len(log)) for log in logs)} records, {released} counted, "
            f"{len(self.received)} received, {late} recorded late, {self.failures.total()} errors"
        )


async def events_until(connection: Connection, since: str, kind: str) -> list[Event]:
    """What a follower that comes back with its cursor is sent, up to the first event of a kind."""
    seen: list[Event] = []
    async with asyncio.timeout(20):
        async for event in connection.events(since):
            seen.append(event)
            if event.kind == kind:
                break
    return seen


async def test_two_daemons_give_out_what_is_allowed_and_record_what_they_count(site: Site) -> None:
    draw = random.Random(seed := random.getrandbits(31))
    print(f"\nseed {seed}")
    async with site.connection(site.first) as connection:
        await confirm(site.first, OWNER, (await site.owner.register(connection)).fingerprint)
        await site.owner.ask(connection, messages.VaultAllow(CHECKER))
    for number in range(ROUNDS):
        async with site.connection(site.first) as connection:
            record = f"record-{number}"
            deposit = await site.owner.put(connection, record, max_uses=MOST, mode=DENY)
            left = (await connection.control(messages.EventsRead("now"), timeout_s=5)).cursor
        race = Race(site, deposit)
        await race.run(KILLS, draw)
        print(f"{record}: {race.check()}")
        away = site.daemons[number % 2]
        async with site.connection(away) as connection:
            await connection.control(messages.VaultSuspend(record, 1, "the end"), timeout_s=10)
        for client in (OWNER, CHECKER):
            async with site.connection(away, client, client) as connection:
                told = await events_until(connection, left, "vault.suspended")
            kinds = [each.kind for each in told if each.subject == f"{OWNER}/{record}"]
            assert kinds == ["vault.exhausted", "vault.over-use", "vault.suspended"]
    for daemon in site.daemons:
        daemon.stop()
        assert verify_log(log_lines(daemon.audit_path.parent), None).intact

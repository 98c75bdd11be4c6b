"""Limited grants under kills: at most so many signatures as were granted, and each use that was counted is in one log, once.

The independent witness is the fault module, which sees every signature that the token makes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.client import Connection
from hsmd.daemon.store import LimitedGrantRecord, Store
from hsmd.errors import HsmdError, Refused, StoreFailure
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.daemon import WEB, Daemon, running_daemon
from tests.support.evidence import TokenFile
from tests.support.fault_module.control import Action, FaultModule, Function
from tests.support.fleet import free_port, twin_of
from tests.support.polling import eventually, wait_until
from tests.support.postgresql import Cluster
from tests.support.start_hooks import python_with
from tests.support.tls_bytes import tls13

USES, CALLERS, FRONT_KILLS = 10, 32, 5
PAUSE_S = 24.0
"""Longest pause of a caller: together they ask a few times in a second, so that kills fall between uses."""
P256 = 0x0403
ENDED = "the daemon ended before the outcome was known"
pytestmark = pytest.mark.timeout(120)


@dataclass
class Site:
    """One or two daemons, a key whose uses by web-1 are limited, and the requests that were made of it."""

    daemons: list[Daemon]
    module: FaultModule
    key: bytes = b""
    public: Any = None
    asked: dict[str, bytes] = field(default_factory=dict)
    """Data of all requests, by its SHA-256 in hex."""
    answers: dict[str, bytes] = field(default_factory=dict)
    errors: list[HsmdError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.daemons[0].store_url)
        self.key = self.daemons[0].add_key("site", grant_to=())
        self.public = load_der_public_key(self.daemons[0].ask(messages.KeyShow("site")).public_key)

    def grant(self, max_uses: int = USES) -> None:
        self.daemons[0].ask(
            messages.GrantAdd(WEB, "site", ["tls13-server"], max_uses=max_uses, request="TICKET-17")
        )
        for daemon in self.daemons:
            wait_until(
                lambda daemon=daemon: daemon.ask(messages.KeyList(), WEB).keys, "the grant to be known"
            )

    @property
    def limited(self) -> LimitedGrantRecord:
        (grant,) = self.store.load().limited_grants
        return grant

    async def use(self, connection: Connection, timeout_s: float = 5.0) -> bytes | HsmdError:
        """Make one request that differs from all others."""
        data = tls13(random.getrandbits(64))
        digest = hashlib.sha256(data).hexdigest()
        self.asked[digest] = data
        try:
            answer = await connection.use_key(self.key, Purpose.TLS13_SERVER, P256, data, timeout_s=timeout_s)
        except HsmdError as error:
            self.errors.append(error)
            return error
        self.public.verify(answer, data, ec.ECDSA(hashes.SHA256()))
        self.answers[digest] = answer
        return answer

    def signed(self) -> list[str]:
        """The SHA-256 of what the token has signed with the key, once for each signature."""
        digests = [call.asked.hex() for call in self.module.calls(Function.SIGN) if call.returned_data]
        return [digest for digest in digests if digest in self.asked]

    def check(self, counted: int) -> int:
        """Stop the daemons, and compare counter, both audit logs, what the token signed and what callers got.

        Each number is in one record of one log, and belongs to an attempt there. Returns how many were recorded late.
        """
        wait_until(lambda: not self.kept(), "every counted use to be recorded, and forgotten by the store")
        for daemon in self.daemons:
            daemon.stop()
        grant, signed = self.limited, self.signed()
        assert grant.used == counted
        assert len(signed) == len(set(signed)) <= counted, "a use is never repeated"
        assert set(self.answers) <= set(signed)
        numbers: list[int] = []
        late = 0
        for daemon in self.daemons:
            records = daemon.audit()
            attempts = {each["index"]: each for each in records if each["event"] == "attempt"}
            attempts = {at: each for at, each in attempts.items() if each["asked"] in self.asked}
            outcomes = {each["attempt"]: each for each in records if each["event"] == "outcome"}
            uses = [each for each in records if each["event"] == "grant.used"]
            used = {each["fields"]["attempt"]: each for each in uses}
            assert len(used) == len(uses), "an attempt is at most one use"
            assert used.keys() <= attempts.keys(), "each use that was counted has its attempt"
            for at, use in used.items():
                fields = use["fields"]
                assert (fields["grant"], fields["key"]) == (grant.id, self.key.hex())
                assert at < use["index"]
                numbers.append(fields["number"])
                late += "counted_at" in fields
            for at, attempt in attempts.items():
                if outcomes[at]["result"] == "performed" or attempt["asked"] in signed:
                    assert used[at]["index"] < outcomes[at]["index"], "recorded before the token was asked"
                    assert "counted_at" not in used[at]["fields"]
        assert sorted(numbers) == list(range(1, counted + 1))
        print(f"{counted} counted, {len(signed)} signed, {len(self.answers)} answered, {late} recorded late")
        return late

    def kept(self) -> int:
        """How many uses the store keeps because they are in no log, or were not removed yet."""
        return self.store.query(
            lambda tx: tx.connection.exec_driver_sql("SELECT count(*) FROM counted_uses").scalar_one()
        )


@pytest.fixture
def open_site(tmp_path: Path, fault_module: FaultModule) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:

        def build(*, store_url: str = "", daemons: int = 1, **options: Any) -> Site:
            settings = {"before": fault_module.before, "addresses": [f"127.0.0.1:{free_port()}"], **options}
            first = stack.enter_context(running_daemon(tmp_path / "daemon", store_url=store_url, **settings))
            running = [first]
            for number in range(1, daemons):
                twin = twin_of(first, tmp_path / f"twin-{number}")
                stack.callback(twin.end)
                running.append(twin.start())
            site = Site(running, fault_module)
            stack.callback(site.store.close)
            return site

        yield build


async def race(site: Site, kills: int, armed: Path) -> None:
    """32 callers use the key until nothing is left, while fronts are killed close behind counted uses.

    Every second kill waits for the next use, and hits its front between the count and its record.
    """
    draw = random.Random(seed := random.getrandbits(31))
    print(f"seed {seed}")
    done = asyncio.Event()

    async def call(connection: Connection) -> None:
        while not done.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), draw.random() * PAUSE_S)
            await site.use(connection)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(TokenFile(site.daemons[0]))
        connections = []
        for daemon in site.daemons:
            for _ in range(4):
                connections.append(Connection(daemon.endpoint(WEB)))
                await connections[-1].start()
                stack.push_async_callback(connections[-1].close)
        callers = [asyncio.create_task(call(connections[n % len(connections)])) for n in range(CALLERS)]
        for number in range(kills):
            await reached(site, min(USES - 1, 1 + number * USES // kills))
            if number % 2:
                armed.touch()
                await eventually(lambda: not armed.exists(), 60)
            else:
                await asyncio.sleep(draw.random() * 0.02)
                kill_front(draw.choice(site.daemons))
        await reached(site, USES)
        for daemon in site.daemons:
            await asyncio.to_thread(
                wait_until, lambda daemon=daemon: answers(daemon), "the front is back", 20
            )
        done.set()
        await asyncio.gather(*callers)
    await asyncio.gather(*(refused(site, daemon) for daemon in site.daemons))


async def reached(site: Site, count: int) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(lambda: site.limited.used) < count:
            await asyncio.sleep(0.002)


async def refused(site: Site, daemon: Daemon) -> None:
    """Return when the daemon refuses all callers at once, which it does as soon as its token is back."""
    async with daemon.connection(WEB) as connection, asyncio.timeout(20):
        while True:
            results = await asyncio.gather(*(site.use(connection) for _ in range(CALLERS)))
            assert not any(isinstance(result, bytes) for result in results)
            if all(isinstance(result, Refused) for result in results):
                return
            await asyncio.sleep(0.1)


def answers(daemon: Daemon) -> bool:
    with suppress(HsmdError):
        daemon.status()
        return True
    return False


def kill_front(daemon: Daemon) -> None:
    with suppress(ProcessLookupError, IndexError):
        os.kill(daemon.front_pid, signal.SIGKILL)


async def test_two_daemons_on_postgresql_never_exceed_a_grant_under_kills(
    open_site: Callable[..., Site], cluster: Cluster, tmp_path: Path
) -> None:
    cluster.run("CREATE DATABASE limited_race")
    point, armed = "between the count and its record", tmp_path / "armed"
    site = open_site(
        store_url=cluster.url("limited_race"), daemons=2, python=killed_at(point, armed, tmp_path / "venv")
    )
    site.grant()
    await race(site, FRONT_KILLS, armed)
    assert site.check(USES) >= FRONT_KILLS // 2, "recorded late"


async def test_a_daemon_on_sqlite_never_exceeds_a_grant_under_kills(
    open_site: Callable[..., Site], tmp_path: Path
) -> None:
    point, armed = "between the count and its record", tmp_path / "armed"
    site = open_site(python=killed_at(point, armed, tmp_path / "venv"))
    site.grant()
    await race(site, FRONT_KILLS, armed)
    assert site.check(USES) >= FRONT_KILLS // 2, "recorded late"


async def test_callers_that_ask_at_once_get_exactly_what_was_granted(open_site: Callable[..., Site]) -> None:
    site = open_site(workers=2)
    site.grant()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(site.daemons[0].connection(WEB)) for _ in range(4)]
        await asyncio.gather(*(site.use(connections[n % 4]) for n in range(CALLERS)))
    assert len(site.answers) == USES
    assert [type(error) for error in site.errors] == [Refused] * (CALLERS - USES)
    assert len(site.signed()) == USES
    site.check(USES)


async def test_a_worker_that_is_killed_in_the_middle_of_a_use_is_not_asked_again(
    open_site: Callable[..., Site], fault_module: FaultModule
) -> None:
    site = open_site(workers=2)
    site.grant()
    daemon = site.daemons[0]
    rule = fault_module.rule(Function.SIGN, Action.HANG, count=1)
    async with daemon.connection(WEB) as connection:
        using = asyncio.create_task(site.use(connection, timeout_s=20))
        await eventually(lambda: rule.hits, 10)
        for pid in daemon.signing_pids():
            os.kill(pid, signal.SIGKILL)
        assert isinstance(await using, HsmdError)
        rule.clear()
        await asyncio.to_thread(daemon.wait_for_workers)
        assert isinstance(await site.use(connection), bytes)
    assert len(site.signed()) == 1
    outcomes = [each for each in daemon.audit("outcome") if "counted" in each.get("error", "")]
    assert [each["result"] for each in outcomes] == ["unknown"]
    site.check(2)


async def test_with_the_store_away_nothing_is_signed(
    open_site: Callable[..., Site], cluster: Cluster
) -> None:
    cluster.run("CREATE DATABASE limited_away")
    site = open_site(store_url=cluster.url("limited_away"))
    site.grant()
    async with site.daemons[0].connection(WEB) as connection:
        assert isinstance(await site.use(connection), bytes)
        cluster.run("ALTER DATABASE limited_away ALLOW_CONNECTIONS false")
        cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'limited_away'")
        assert isinstance(await site.use(connection, timeout_s=20), StoreFailure)
        assert len(site.signed()) == 1
        cluster.run("ALTER DATABASE limited_away ALLOW_CONNECTIONS true")
        await eventually(lambda: site.limited.used == 1, 10)
        assert isinstance(await site.use(connection), bytes)
    site.check(2)


async def test_a_store_that_stands_still_holds_a_use_and_a_kill_then_costs_no_signature(
    open_site: Callable[..., Site], cluster: Cluster
) -> None:
    """The row of the count is locked: attempt recorded, nothing counted. The front dies before the lock is released."""
    cluster.run("CREATE DATABASE limited_still")
    site = open_site(store_url=cluster.url("limited_still"))
    site.grant()
    daemon = site.daemons[0]
    async with daemon.connection(WEB) as connection:
        with site.store.write(versioned=False) as tx:
            tx.connection.exec_driver_sql("SELECT * FROM grant_uses FOR UPDATE")
            using = asyncio.create_task(site.use(connection, timeout_s=10))
            await eventually(
                lambda: [each for each in daemon.audit("attempt") if each["asked"] in site.asked], 10
            )
            kill_front(daemon)
            assert isinstance(await using, HsmdError)
    assert site.signed() == []
    await asyncio.to_thread(wait_until, lambda: answers(daemon), "the front is back", 20)
    site.check(site.limited.used)


async def test_a_grant_that_is_removed_while_a_use_waits_is_not_used(
    open_site: Callable[..., Site], cluster: Cluster
) -> None:
    cluster.run("CREATE DATABASE limited_removed")
    site = open_site(store_url=cluster.url("limited_removed"))
    site.grant()
    daemon = site.daemons[0]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with daemon.connection(WEB) as connection:
        with site.store.write() as tx:
            tx.grants.remove(WEB, "site", [Purpose.TLS13_SERVER])
            using = asyncio.create_task(site.use(connection, timeout_s=20))

            def waits() -> bool:
                return bool(site.store.query(lambda read: read.connection.exec_driver_sql(waiting).scalar()))

            await asyncio.to_thread(wait_until, waits, "the use to wait")
        assert isinstance(await using, Refused)
    assert site.signed() == []
    (outcome,) = [each for each in daemon.audit("outcome") if each.get("error") == "no-grant"]
    assert outcome["result"] == "refused"


KILL_AT = """
import contextlib, os, signal, sys
from pathlib import Path

if "hsmd.daemon.front.app" in sys.orig_argv:
    from hsmd.daemon.front.signing import limited_uses, service

    armed = Path({armed!r})

    def killing(method):
        def wrapped(self, requests, *more):
            if requests and requests[0].grant.limit is not None and armed.exists():
                with contextlib.suppress(FileNotFoundError):  # by the other daemon
                    armed.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            return method(self, requests, *more)
        return wrapped

    owner = {owner}
    owner.{method} = killing(owner.{method})
"""
POINTS = {
    "before the count": ("limited_uses.LimitedUses", "_count"),
    "between the count and its record": ("limited_uses.LimitedUses", "_counted"),
    "between the record and the token": ("service.KeyService", "_submit_all"),
}


def killed_at(point: str, armed: Path, directory: Path) -> str:
    """An interpreter in which a front that gets to a point while the file `armed` exists removes it and kills itself."""
    owner, method = POINTS[point]
    return python_with(directory, KILL_AT.format(armed=str(armed), owner=owner, method=method))


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_costs_at_most_the_use_that_it_hits(
    open_site: Callable[..., Site], tmp_path: Path, point: str
) -> None:
    """SIGKILL of the front at a point of the path: no signature, and what was counted is recorded, if late."""
    armed = tmp_path / "armed"
    site = open_site(python=killed_at(point, armed, tmp_path / "venv"))
    site.grant()
    daemon = site.daemons[0]
    async with daemon.connection(WEB) as connection:
        assert isinstance(await site.use(connection), bytes)
        armed.touch()
        assert isinstance(await site.use(connection), HsmdError)
    assert not armed.exists(), "it was killed there"
    counted = 1 if point == "before the count" else 2
    assert site.limited.used == counted
    assert len(site.signed()) == 1
    await asyncio.to_thread(wait_until, lambda: answers(daemon), "the front is back", 20)
    await asyncio.to_thread(daemon.wait_for_workers)
    async with daemon.connection(WEB) as connection:
        assert isinstance(await site.use(connection), bytes)
    uses = [each["fields"] for each in daemon.audit("grant.used")]
    assert [each["number"] for each in uses] == list(range(1, counted + 2))
    late = [each["number"] for each in uses if "counted_at" in each]
    assert late == ([2] if point == "between the count and its record" else [])
    assert [each["error"] for each in daemon.audit("outcome") if "error" in each] == [ENDED]
    site.check(counted + 1)

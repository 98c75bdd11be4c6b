"""A vault with many deposits: what each request takes, and what checks beside key operations add to these.

`scripts/soak vault-load` has 10,000 deposits of 100 owners, limits the medians, and limits what checks may add to the 99th
percentile of signatures. The suite has a few, and runs the same steps.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from hsmd.client import Connection
from hsmd.envelopes.vault.answers import Verdict
from hsmd.protocol import messages
from tests.support.daemon import WEB, Daemon, running_daemon
from tests.support.postgresql import Cluster
from tests.support.processes import environment
from tests.support.steady_signing import percentile_99, sign_steadily
from tests.support.vault import add_client, check
from tests.support.vault_owners import Filled, fill

OWNERS = int(os.environ.get("HSMD_VAULT_LOAD_OWNERS", "4"))
RECORDS = int(os.environ.get("HSMD_VAULT_LOAD_RECORDS", "25"))
REQUESTS = int(os.environ.get("HSMD_VAULT_LOAD_REQUESTS", "20"))
"""Measurements of each kind of request."""
LIMIT_MS = float(os.environ.get("HSMD_VAULT_LOAD_MS", "0"))
"""The median of each kind of request is at most this; 0: no limit."""
ROUNDS = int(os.environ.get("HSMD_VAULT_LOAD_ROUNDS", "1"))
SECONDS = float(os.environ.get("HSMD_VAULT_LOAD_S", "2"))
PERCENT = int(os.environ.get("HSMD_VAULT_LOAD_PERCENT", "0"))
"""The 99th percentile of signatures beside checks, in percent of that without, is at most this; 0: no limit."""
CHECKS_PER_S = float(os.environ.get("HSMD_VAULT_LOAD_CHECKS", "10"))
ASKING = 10
"""Owners that make the measured requests, in turn."""
CHECKER = "relying"
pytestmark = pytest.mark.timeout(int(120 + OWNERS * (2 + RECORDS * 0.1) + REQUESTS + ROUNDS * SECONDS * 3))


@pytest.fixture(params=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    url = ""
    cluster: Cluster | None = None
    if request.param == "postgresql":
        cluster = request.getfixturevalue("cluster")
        cluster.run("CREATE DATABASE vault_load")
        url = cluster.url("vault_load")
    with running_daemon(tmp_path / "daemon", store_url=url) as built:
        add_client(built, CHECKER, "checker")
        yield built
    if cluster is not None:
        cluster.run("DROP DATABASE vault_load WITH (FORCE)")


@asynccontextmanager
async def connections(daemon: Daemon, filled: list[Filled]) -> AsyncIterator[list[tuple[Filled, Connection]]]:
    """A connection for each of some owners."""
    async with AsyncExitStack() as stack:
        yield [(each, await stack.enter_async_context(daemon.connection(each.owner.name))) for each in filled]


Step = Callable[[Filled, Connection, str], Awaitable[float]]
"""Makes a request of an owner about a record; returns when it began, if that was later than the step."""


async def timed(name: str, step: Step, asking: list[tuple[Filled, Connection]], draw: random.Random) -> float:
    """Make one kind of request again and again; return the median in milliseconds."""
    took = []
    for number in range(-len(asking), REQUESTS):  # each once before, as in a daemon that has run for a while
        filled, connection = asking[number % len(asking)]
        record = draw.choice(list(filled.spkis))
        began = time.perf_counter()
        began = max(began, await step(filled, connection, record))
        if number >= 0:
            took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    median = statistics.median(took)
    print(f"  {name}: median {median:.1f} ms, p99 {took[int(len(took) * 0.99)]:.1f} ms of {len(took)}")
    return median


async def list_records(filled: Filled, connection: Connection, record: str) -> float:
    page: messages.VaultPage = await connection.control(messages.VaultList(), timeout_s=15)
    assert len(page.records) == min(len(filled.spkis), 100)
    return 0.0


async def check_key(filled: Filled, connection: Connection, record: str) -> float:
    answer = await check(connection, filled.owner.name, filled.spkis[record])
    assert (answer.verdict, answer.record) == (Verdict.MATCH, record)
    return 0.0


async def get_key(filled: Filled, connection: Connection, record: str) -> float:
    """The proof is there before."""
    proven = await filled.owner.proven(connection, messages.VaultGet(record), record)
    began = time.perf_counter()
    acquired: messages.VaultAcquired = await connection.control(proven, timeout_s=15)
    assert acquired.record == record
    return began


async def prove_and_get_key(filled: Filled, connection: Connection, record: str) -> float:
    """With challenge and proof."""
    assert (await filled.owner.get(connection, record)).record == record
    return 0.0


async def test_requests_take_no_longer_with_many_deposits(daemon: Daemon) -> None:
    filled = await fill(daemon, OWNERS, RECORDS)
    draw = random.Random(random.getrandbits(31))
    print(f"\n{OWNERS * RECORDS} deposits of {OWNERS} owners, {daemon.store_url.partition(':')[0]}")
    async with connections(daemon, filled[:ASKING]) as asking:
        medians = {
            "vault.list": await timed("vault.list", list_records, asking, draw),
            "vault.check": await timed("vault.check", check_key, asking, draw),
            "vault.get": await timed("vault.get", get_key, asking, draw),
        }
        await timed("vault.get with challenge and proof", prove_and_get_key, asking, draw)
    assert not LIMIT_MS or max(medians.values()) < LIMIT_MS, medians

    key = daemon.add_key("www")
    switch = daemon.directory / "checking"
    rounds: dict[bool, list[float]] = {False: [], True: []}
    checked_s = 0.0
    with checks(daemon, filled, switch) as checking:
        async with daemon.connection(WEB) as connection:
            await sign_steadily(connection, key, 1.0)
            for number in range(2 * ROUNDS):
                beside = number % 4 in (1, 2)  # without, with, with, without: a drift concerns both
                if beside:
                    switch.touch()
                began = time.monotonic()
                took = await sign_steadily(connection, key, SECONDS)
                switch.unlink(missing_ok=True)
                checked_s += (time.monotonic() - began) * beside
                rounds[beside].append(percentile_99(took) * 1e3)
        answered = await asyncio.to_thread(finish, checking)
    ratio = statistics.median(rounds[True]) / statistics.median(rounds[False])
    for beside, turns in rounds.items():
        each = ", ".join(f"{turn:.1f}" for turn in turns)
        print(f"  signatures {'beside' if beside else 'without'} checks: p99 in ms of each turn: {each}")
    rate = answered / checked_s
    print(f"  {rate:.0f} checks a second; p99 beside / without, medians of turns: {ratio:.2f}")
    assert answered > 0
    assert rate > CHECKS_PER_S * 0.8 or not PERCENT
    assert not PERCENT or ratio * 100 <= PERCENT


@contextmanager
def checks(daemon: Daemon, filled: list[Filled], switch: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that checks keys of all owners while the switch is there."""
    host, port = daemon.address
    command = [
        sys.executable, "-m", "tests.support.vault_checks", host, str(port), daemon.notice["host_key"], CHECKER,
        str(daemon.directory / CHECKER), str(CHECKS_PER_S), str(switch),
    ]  # fmt: skip
    questions = [(each.owner.name, spki.hex()) for each in filled for spki in each.spkis.values()]
    random.shuffle(questions)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(questions) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def finish(checking: subprocess.Popen[str]) -> int:
    """How many checks were answered."""
    out, _ = checking.communicate(timeout=30)
    return int(out)

"""10^4 events and counter steps a minute by two daemons on PostgreSQL: neither loads grants again, and both go on signing.

The daemons sign at a steady rate, in turns with and without the writes. `scripts/soak ledger` takes longer turns, prints the
latencies and limits what the writes may add to the 99th percentile.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsmd.client import Connection
from hsmd.daemon.store import Readers, Store
from hsmd.errors import HsmdError
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.roles import Role
from tests.support.daemon import WEB, Daemon
from tests.support.polling import eventually, wait_until
from tests.support.postgresql import Cluster
from tests.support.steady_signing import SIGNATURES_PER_S, percentile_99, sign_steadily

ROUNDS = int(os.environ.get("HSMD_TEST_LEDGER_ROUNDS", "1"))
SECONDS = float(os.environ.get("HSMD_TEST_LEDGER_S", "3"))
PERCENT = int(os.environ.get("HSMD_TEST_LEDGER_PERCENT", "0"))
"""The 99th percentile with the writes, in percent of that without, is at most this; 0: no limit."""
WRITES_PER_S = 10_000 / 60
LOAD = Path(__file__).parents[1] / "support" / "ledger_load"
OPERATORS = Readers(roles=frozenset({Role.OPERATOR}))
pytestmark = pytest.mark.timeout(int(ROUNDS * SECONDS * 4 + 180))


@dataclass(frozen=True)
class Fleet:
    """Two running daemons, the key that both serve, their store, and the file that makes them write."""

    daemons: tuple[Daemon, Daemon]
    key: bytes
    store: Store
    switch: Path
    counted: Path

    def loads(self) -> int:
        """How often the daemons have loaded the contents of the store, grants included."""
        return self.counted.stat().st_size if self.counted.exists() else 0

    def written(self) -> int:
        return self.store.query(lambda tx: tx.counters.value("load"))


@pytest.fixture
def fleet(tmp_path: Path, cluster: Cluster) -> Iterator[Fleet]:
    cluster.run("CREATE DATABASE busy")
    switch, counted = tmp_path / "write", tmp_path / "loads"
    environment = {
        "PYTHONPATH": str(LOAD),
        "HSMD_TEST_LEDGER_URL": cluster.url("busy"),
        "HSMD_TEST_LEDGER_SWITCH": str(switch),
        "HSMD_TEST_LEDGER_LOADS": str(counted),
        "HSMD_TEST_LEDGER_RATE": str(WRITES_PER_S / 2),
    }
    first = Daemon(tmp_path / "first", store_url=cluster.url("busy"), environment=environment)
    second = Daemon(tmp_path / "second", beside=first, name="second", environment=environment)
    store = Store(cluster.url("busy"))
    with ExitStack() as stack:
        for daemon in (first, second):
            stack.callback(daemon.end)
            daemon.start()
        yield Fleet((first, second), first.add_key("www"), store, switch, counted)
    store.close()


def show(rounds: dict[bool, list[list[float]]]) -> float:
    """Print the latencies; return the 99th percentile with writes as a multiple of that without."""
    for writing, turns in rounds.items():
        all_ = [one for turn in turns for one in turn]
        each = ", ".join(f"{percentile_99(turn) * 1e6:.0f}" for turn in turns)
        print(
            f"{'with' if writing else 'without'} writes: {len(all_)} signatures, median"
            f" {statistics.median(all_) * 1e6:.0f} us, p99 {percentile_99(all_) * 1e6:.0f} us (turns: {each})"
        )
    with_, without = (
        statistics.median(percentile_99(turn) for turn in rounds[writing]) for writing in (True, False)
    )
    print(f"p99 with writes / without, medians of turns: {with_ / without:.3f}")
    return with_ / without


async def test_daemons_that_write_much_load_no_grants_and_go_on_signing(fleet: Fleet) -> None:
    connections = [daemon.connection(WEB) for daemon in fleet.daemons]
    rounds: dict[bool, list[list[float]]] = {False: [], True: []}
    async with connections[0], connections[1]:
        for connection in connections:
            await until_it_signs(connection, fleet.key)
            await sign_steadily(connection, fleet.key, 0.5)
        await no_more_loads(fleet)

        version, loads, head = fleet.store.version(), fleet.loads(), head_of(fleet.store)
        wrote_s = 0.0
        for number in range(2 * ROUNDS):
            writing = number % 4 in (1, 2)  # without, with, with, without: a drift concerns both
            began = time.monotonic()
            if writing:
                fleet.switch.touch()
            both = await asyncio.gather(*(sign_steadily(one, fleet.key, SECONDS) for one in connections))
            if writing:
                fleet.switch.unlink()
                wrote_s += time.monotonic() - began
            rounds[writing].append([took for each in both for took in each])
        await settled(fleet)
        written = fleet.written()
        print(f"\n{written} events and counts in {wrote_s:.1f} s: {written / wrote_s * 60:.0f} a minute")
        assert written > 0
        assert head_of(fleet.store).number - head.number == written, "each count has its event"
        assert written >= 0.8 * wrote_s * WRITES_PER_S or not PERCENT
        assert fleet.store.version() == version
        assert fleet.loads() == loads, "no daemon loaded its contents again"
        page = fleet.store.query(lambda tx: tx.events.page(OPERATORS, head))
        assert page.events[0].cursor.number == head.number + 1
        assert not page.missed

        fleet.store.change(lambda tx: tx.clients.add("new", frozenset({Role.FRONT_END}), datetime.now(UTC)))
        wait_until(lambda: fleet.loads() >= loads + 2, "a change of the contents makes both load them", 20)
    ratio = show(rounds)
    assert not PERCENT or ratio * 100 <= PERCENT


async def until_it_signs(connection: Connection, key: bytes) -> None:
    """Wait until the daemon has learned of the key, which another one has made."""
    async with asyncio.timeout(20):
        while True:
            with suppress(HsmdError):
                await sign_steadily(connection, key, 1 / SIGNATURES_PER_S)
                return
            await asyncio.sleep(0.05)


def head_of(store: Store) -> Cursor:
    return store.query(lambda tx: tx.events.head())


async def no_more_loads(fleet: Fleet) -> None:
    """Wait until both daemons have loaded what was changed before; they look for changes once a second."""
    await unchanged(fleet.loads, 300)


async def settled(fleet: Fleet) -> None:
    """Wait until the writers have noticed that the file is gone."""
    await unchanged(fleet.written, 20)


async def unchanged(number: Callable[[], int], times: int) -> None:
    """Wait until a number was the same in so many polls."""
    seen: list[int] = []

    def is_unchanged() -> bool:
        seen.append(number())
        return len(seen) > times and len(set(seen[-times:])) == 1

    await eventually(is_unchanged, 30)

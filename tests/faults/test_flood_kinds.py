"""All kinds of floods at once, in short: others log in and sign, and afterwards the front holds no more than before.

`scripts/soak floods` has each kind for minutes, and compares latencies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.daemon import MAIL, WEB, Daemon, running_daemon
from tests.support.flood_kinds import KINDS
from tests.support.flood_site import Held, flood, latencies, log_in, open_files, settled
from tests.support.polling import eventually
from tests.support.ssh_peer import ssh, wire

pytestmark = pytest.mark.timeout(120)
ALL = ",".join(kind for kind in KINDS if kind != "audit-read")
FLOOD_S = 3.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("kinds") / "daemon", workers=1) as made:
        made.own = made.add_key("mail", grant_to=(MAIL,))  # type: ignore[attr-defined]
        yield made


async def test_no_flood_leaves_anything_behind_or_stops_others(built: Daemon) -> None:
    key: bytes = built.own  # type: ignore[attr-defined]
    with flood(ALL, built, WEB, 1):  # after this the front has all threads that it keeps
        await log_in(built, MAIL)
    await _no_connections(built)
    before = Held.by(built.front_pid)
    with flood(ALL, built, WEB, 2):
        took = await latencies(built, MAIL, key, FLOOD_S)
        for _ in range(5):
            await log_in(built, MAIL)
        during = Held.by(built.front_pid)
    assert took[-1] < 5.0, "no operation of another client failed"
    assert during.descriptors > before.descriptors + 20, "the flood was there"
    assert during.memory < before.memory + 64 * MIB
    after = await settled(built.front_pid, before, memory=0.15)
    assert after.is_back_at(before, memory=0.15), (
        f"before {before}, after {after}: {open_files(built.front_pid)}"
    )


async def test_what_is_left_behind_would_be_seen(built: Daemon) -> None:
    """The positive control of the test above: connections that stay are descriptors that stay."""
    await _no_connections(built)
    before = Held.by(built.front_pid)
    connections = [await ssh(built, WEB) for _ in range(4)]
    await asyncio.gather(*(wire(connection) for connection in connections))
    assert not (await settled(built.front_pid, before, within_s=0.5)).is_back_at(before)
    for connection in connections:
        connection.abort()
    assert (await settled(built.front_pid, before)).is_back_at(before)


async def _no_connections(built: Daemon) -> None:
    await eventually(
        lambda: len(built.logged("connection.opened")) == len(built.logged("connection.closed")), 20
    )

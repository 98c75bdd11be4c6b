"""Announcements of ends: when the next one is due, and each once, whatever the clock does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import terms as terms_module
from hsmd.daemon.front.vault.terms import CHECK_S, SHORTEST_S, Terms
from hsmd.daemon.store import Readers, Store
from hsmd.protocol.roles import Role
from tests.support.store import NOW
from tests.support.vault_store import Owner

DAY = timedelta(days=1)


class World:
    def __init__(self, directory: Path) -> None:
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.owner = Owner(self.store).enrol()
        self.owner.begin()
        self.now = NOW
        self.woken = 0
        self.terms = self.start()

    def start(self) -> Terms:
        return Terms(SnapshotCache(self.store), self.wake, now=lambda: self.now)

    def wake(self) -> None:
        self.woken += 1

    def told(self) -> list[tuple[str, str]]:
        readers = Readers(frozenset(Role))
        page = self.store.query(lambda tx: tx.events.page(readers, None, 500))
        return [
            (each.kind, each.payload["threshold"])
            for each in page.events
            if each.kind in ("vault.expiring", "vault.expired")
        ]

    async def at(self, moment: datetime) -> list[tuple[str, str]]:
        """What was told when a check has been made at that time."""
        self.now = moment
        await self.terms.check()
        return self.told()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


async def test_each_threshold_is_announced_once_whatever_the_clock_does(world: World) -> None:
    end = NOW + 90 * DAY
    world.owner.put("web", not_after=end)
    assert await world.at(NOW) == []
    assert len(await world.at(end - 29 * DAY)) == 1
    assert len(await world.at(end - 40 * DAY)) == 1, "the clock was set back"
    world.terms = world.start()
    assert len(await world.at(end - 29 * DAY)) == 1, "restarted"
    assert len(await world.at(end - 6 * DAY)) == 2
    assert len(await world.at(end - DAY / 2)) == 3
    assert len(await world.at(end)) == 4
    assert len(await world.at(end - timedelta(hours=1))) == 4
    assert len(await world.at(end + DAY)) == 4
    assert [kind for kind, _ in world.told()] == ["vault.expiring"] * 3 + ["vault.expired"]
    assert len({threshold for _, threshold in world.told()}) == 4
    assert world.woken == 4


async def test_a_daemon_that_was_away_announces_the_most_urgent_one(world: World) -> None:
    end = NOW + 90 * DAY
    world.owner.put("web", not_after=end)
    told = await world.at(end + DAY)
    assert [kind for kind, _ in told] == ["vault.expired"]


async def test_two_daemons_announce_it_once(world: World) -> None:
    world.owner.put("web", not_after=NOW + 90 * DAY)
    world.now = NOW + 61 * DAY
    other = world.start()
    await asyncio.gather(world.terms.check(), other.check())
    assert len(world.told()) == 1


async def test_the_next_check_is_when_a_threshold_is_due(world: World) -> None:
    assert await world.terms.check() == CHECK_S
    world.owner.put("web", not_after=NOW + timedelta(seconds=30))
    assert 0 < await world.terms.check() < 30
    world.now = NOW + timedelta(seconds=29)  # whole seconds are stated
    assert await world.terms.check() == SHORTEST_S


async def test_thousands_at_once_are_announced_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms_module, "AT_ONCE", 2)
    for number in range(5):
        world.owner.put(f"site-{number}", not_after=NOW + 20 * DAY)
    world.now = NOW + 21 * DAY
    assert await world.terms.check() == terms_module.REST_S
    assert len(world.told()) == 2
    while await world.terms.check() == terms_module.REST_S:
        pass
    assert len(world.told()) == 5


async def test_a_change_is_noticed_before_the_next_check(world: World) -> None:
    following = asyncio.ensure_future(world.terms.follow())
    await asyncio.sleep(0.05)
    world.owner.put("web", not_after=NOW + DAY)
    world.now = NOW + 2 * DAY
    world.terms.changed()
    async with asyncio.timeout(10):
        while not world.told():
            await asyncio.sleep(0.02)
    following.cancel()

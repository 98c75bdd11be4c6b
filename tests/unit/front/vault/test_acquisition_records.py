"""Each counted acquisition comes to stand in the log once: after a kill, a lost answer of the store, a log that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault.acquisition_records import AcquisitionRecords
from hsmd.daemon.store import Acquisition, Store
from hsmd.errors import AuditFailure, StoreFailure
from tests.support.store import NOW
from tests.support.vault_store import ORIGIN, Owner


class World:
    """A store, and a log whose daemon is killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "audit"
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.owner = Owner(self.store).enrol()
        self.owner.begin()
        self.owner.put("web", max_uses=3, mode="deny")
        self.cache = SnapshotCache(self.store)
        self.start()

    def start(self) -> None:
        self.audit = AuditLog.open(self.directory)
        self.records = AcquisitionRecords(ORIGIN, self.audit, self.cache)

    async def restart(self) -> None:
        """The process has ended; what it did not commit is lost."""
        await self.audit.close()
        self.start()

    def count(self) -> tuple[str, Acquisition]:
        ticket = self.records.begin()
        return ticket, self.owner.get("web", ticket=ticket).acquisition

    @property
    def acquired(self) -> list[dict[str, Any]]:
        path = self.directory / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [each["fields"] for each in lines if each["event"] == "vault.acquired"]

    @property
    def kept(self) -> list[int]:
        return [each.request for each in self.owner.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.audit.close()
    made.store.close()


async def settled(world: World) -> None:
    for _ in range(2):
        await world.audit.commit_durable()
        await world.records.try_settle()
    assert world.kept == []


async def test_a_recorded_acquisition_is_on_disk_and_then_forgotten_by_the_store(world: World) -> None:
    world.records.record(*world.count())
    assert not world.records.in_log()
    await world.audit.commit_durable()
    assert len(world.records.in_log()) == 1
    assert world.acquired == [
        {
            "owner": "ann", "record": "web", "version": 1, "request": 1, "released": 1,
            "ticket": world.acquired[0]["ticket"],
        }
    ]  # fmt: skip
    assert world.kept == [1]
    await settled(world)
    assert len(world.acquired) == 1


async def test_refused_ones_are_recorded_with_the_reason(world: World) -> None:
    for _ in range(4):
        world.records.record(*world.count())
    await world.audit.commit_durable()
    assert [(each["request"], each.get("released"), each.get("refusal")) for each in world.acquired] == [
        (1, 1, None), (2, 2, None), (3, 3, None), (4, None, "limit"),
    ]  # fmt: skip


@pytest.mark.parametrize("recorded", [0, 2, 3])
async def test_what_a_killed_process_left_is_recorded_once(world: World, recorded: int) -> None:
    """Killed behind the record of some of three, and again before the store forgets them."""
    counted = [world.count() for _ in range(3)]
    for each in counted[:recorded]:
        world.records.record(*each)
    await world.audit.commit_durable()
    await world.restart()
    await world.records.try_settle()
    await world.restart()
    await settled(world)
    assert [each["request"] for each in world.acquired] == [1, 2, 3]
    late = [each["request"] for each in world.acquired if "counted_at" in each]
    assert late == [1, 2, 3][recorded:]


async def test_one_that_is_being_counted_is_not_taken_for_left_over(world: World) -> None:
    ticket, acquisition = world.count()
    await world.records.try_settle()
    assert world.acquired == []
    world.records.record(ticket, acquisition)
    await settled(world)
    assert len(world.acquired) == 1


async def test_a_lost_answer_of_the_store_is_settled(world: World) -> None:
    await settled(world)
    ticket, _ = world.count()
    world.records.failed(ticket, in_doubt=True)
    other = world.records.begin()
    world.records.failed(other, in_doubt=True)
    await settled(world)
    assert [(each["request"], "counted_at" in each) for each in world.acquired] == [(1, True)]
    assert not world.records.in_doubt


async def test_what_could_not_be_recorded_is_recorded_when_the_log_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(world)
    world.records.record(*world.count())
    await world.audit.commit_durable()
    world.records.record(*world.count())

    def full(*given: Any) -> None:
        raise AuditFailure

    with monkeypatch.context() as patch:
        patch.setattr(world.audit, "_write", full)
        with pytest.raises(AuditFailure):
            await world.audit.commit_durable()
    assert len(world.acquired) == 1
    world.audit.event("another.record", "")
    await settled(world)
    assert [(each["request"], "counted_at" in each) for each in world.acquired] == [(1, False), (2, True)]


async def test_a_log_that_takes_no_more_notes_gives_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(world)

    def full(*given: Any, **fields: Any) -> int:
        raise AuditFailure

    with monkeypatch.context() as patch:
        patch.setattr(world.audit, "event", full)
        with pytest.raises(AuditFailure):
            world.records.record(*world.count())
    assert world.acquired == []
    await settled(world)
    assert [(each["request"], "counted_at" in each) for each in world.acquired] == [(1, True)]


async def test_a_store_that_is_away_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.count()
    await world.restart()

    async def away(action: Any) -> None:
        raise StoreFailure

    with monkeypatch.context() as patch:
        patch.setattr(world.cache, "change_unversioned", away)
        await world.records.try_settle()
        assert world.records.in_doubt
    await settled(world)
    assert len(world.acquired) == 1


async def test_the_records_follow_by_themselves(world: World) -> None:
    world.count()
    await world.restart()
    following = asyncio.ensure_future(world.records.follow())
    async with asyncio.timeout(10):
        while world.kept:
            await asyncio.sleep(0.02)
    following.cancel()
    assert len(world.acquired) == 1
    assert NOW.year == 2026

"""Each counted use comes to stand in the log once: after a kill, a lost answer of the store, and a log that fails."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.use_records import UseRecords
from hsmd.daemon.store import CountedUse, CredentialRecord, Limits, Store, Transaction, WantedUse
from hsmd.errors import AuditFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.polling import eventually
from tests.support.store import key_record

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
TLS13 = Purpose.TLS13_SERVER
SITE = key_record("site")
ORIGIN = "front.example/log"


class World:
    """A store, and a log whose daemon is killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "audit"
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.store.change(lambda tx: tx.keys.add(SITE))
        credential = CredentialRecord("SHA256:" + "w" * 43, "line")
        self.store.change(lambda tx: tx.clients.add("web", frozenset({Role.FRONT_END}), NOON, credential))
        self.store.change(lambda tx: tx.limited_grants.add("web", "site", [TLS13], Limits(max_uses=9), NOON))
        (self.grant,) = self.store.load().limited_grants
        self.cache = SnapshotCache(self.store)
        self.now = 100.0
        self.start()

    def start(self) -> None:
        self.audit = AuditLog.open(self.directory, monotonic=lambda: self.now)
        self.records = UseRecords(ORIGIN, self.audit, self.cache)

    async def restart(self) -> None:
        """The process has ended; what it did not commit is lost."""
        await self.audit.close()
        self.start()

    def attempt(self) -> int:
        index = self.audit.attempt("web", "cert", "site", SITE.digest, TLS13.label, 0x0403, b"data")
        self.audit.commit()
        return index

    def count(self, attempt: int) -> CountedUse:
        wanted = WantedUse(self.grant.id, ORIGIN, attempt, "web", SITE.digest, int(TLS13))
        (use,) = self.store.change(lambda tx: tx.limited_grants.count([wanted], NOON), versioned=False)
        assert isinstance(use, CountedUse)
        return use

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "audit.jsonl").read_text().splitlines()]

    @property
    def used(self) -> list[dict[str, Any]]:
        return [each["fields"] for each in self.lines if each["event"] == "grant.used"]

    @property
    def kept(self) -> list[int]:
        uses = self.store.change(lambda tx: tx.counted_uses.all_of(ORIGIN), versioned=False)
        return [use.number for use in uses]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.audit.close()
    made.store.close()


def recorded(world: World, attempt: int, number: int) -> dict[str, Any]:
    return {"attempt": attempt, "grant": world.grant.id, "key": SITE.digest.hex(), "number": number}


def late(world: World, attempt: int, number: int) -> dict[str, Any]:
    return recorded(world, attempt, number) | {"counted_at": "2026-03-04T12:00:00.000000Z"}


async def settled(world: World) -> None:
    """The records are in the log, on disk, and then forgotten by the store."""
    await world.records.settle()
    await world.audit.commit_durable()
    await world.records.settle()
    assert (world.kept, world.records.unsettled) == ([], False)


async def a_second_later(world: World) -> None:
    """A sync that is under way would take the disk as long by the clock of the test."""
    await eventually(lambda: world.audit._syncer._busy_since is None)
    world.now += 1.0


async def test_a_use_is_forgotten_by_the_store_when_its_record_is_on_disk(world: World) -> None:
    await settled(world)
    attempt = world.attempt()
    world.records.add(world.count(attempt))
    world.records.commit()
    assert world.used == [recorded(world, attempt, 1)]
    await eventually(world.records.in_log)
    assert (world.kept, world.records.unsettled) == ([1], True)
    await settled(world)
    assert len(world.used) == 1


async def test_what_a_killed_process_counted_is_recorded_late_with_its_attempt(world: World) -> None:
    await settled(world)
    attempts = [world.attempt() for _ in range(3)]
    for attempt in attempts:
        world.count(attempt)
    await world.restart()
    await world.records.settle()
    assert world.used == [late(world, attempt, n) for n, attempt in enumerate(attempts, 1)]
    assert world.kept == [1, 2, 3], "recorded first, then forgotten"
    await settled(world)


@pytest.mark.parametrize("kept_waiting", [1, 3])
async def test_a_use_that_is_in_the_log_is_not_recorded_again(world: World, kept_waiting: int) -> None:
    """However often the process is killed between the record and the removal."""
    await settled(world)
    first, second = world.attempt(), world.attempt()
    world.records.add(world.count(first))
    world.records.commit()
    world.count(second)
    for _ in range(kept_waiting):
        await world.restart()
        await world.records.settle()
    assert world.kept == [1, 2]
    assert world.used == [recorded(world, first, 1), late(world, second, 2)]
    await settled(world)


async def test_uses_of_other_daemons_are_left_to_them(world: World) -> None:
    wanted = WantedUse(world.grant.id, "twin.example/log", 0, "web", SITE.digest, int(TLS13))
    world.store.change(lambda tx: tx.limited_grants.count([wanted], NOON), versioned=False)
    await settled(world)
    assert world.used == []
    others = world.store.change(lambda tx: tx.counted_uses.all_of("twin.example/log"), versioned=False)
    assert len(others) == 1


async def test_a_use_whose_attempt_the_log_has_lost_is_recorded_without_it(world: World) -> None:
    """A power cut took the end of the log: its indices are given to other attempts, before the use is settled."""
    await settled(world)
    lost = world.audit.size
    world.count(lost)
    await world.restart()
    assert world.attempt() == lost
    await world.records.settle()
    (fields,) = world.used
    expected = late(world, lost, 1) | {"purpose": "tls13-server"}
    del expected["attempt"]
    assert fields == expected
    await settled(world)


async def test_another_record_at_the_index_is_not_taken_for_the_attempt(world: World) -> None:
    await settled(world)
    index = world.audit.event("daemon.started", "", name="x")
    world.audit.commit()
    world.count(index)
    await world.restart()
    await settled(world)
    assert ["attempt" in fields for fields in world.used] == [False]


async def test_a_count_whose_answer_was_lost_is_recorded(world: World) -> None:
    await settled(world)
    attempt = world.attempt()
    world.count(attempt)
    world.records.in_doubt = True
    await settled(world)
    assert world.used == [late(world, attempt, 1)]


async def test_a_use_that_the_log_did_not_take_is_recorded_when_it_does(world: World) -> None:
    await settled(world)
    attempt = world.attempt()
    world.records.add(world.count(attempt))
    away = world.directory / "away"
    (world.directory / "audit.jsonl").rename(away)
    for _ in range(3):
        await a_second_later(world)
        with pytest.raises(AuditFailure):
            world.records.commit()
    with pytest.raises(AuditFailure):
        await world.records.settle()
    away.rename(world.directory / "audit.jsonl")
    await a_second_later(world)
    assert (world.used, world.kept) == ([], [1])
    await settled(world)
    assert world.used == [late(world, attempt, 1)]


async def test_the_log_behind_the_attempts_is_read_in_segments_too(world: World) -> None:
    await settled(world)
    first, second = world.attempt(), world.attempt()
    world.records.add(world.count(first))
    world.records.commit()
    await world.audit.seal()
    world.count(second)
    for _ in range(100):
        world.audit.event("daemon.started", "", name="x")
    world.audit.commit()
    await world.restart()
    await settled(world)
    assert world.used == [late(world, second, 2)], "the first one is in the sealed segment"


async def test_nothing_is_looked_for_once_it_is_settled(world: World) -> None:
    asked: list[str] = []

    class Watched(SnapshotCache):
        async def change_unversioned(self, action: Any) -> Any:
            def watch(tx: Transaction) -> Any:
                look = tx.counted_uses.all_of
                tx.counted_uses.all_of = lambda origin: asked.append(origin) or look(origin)  # type: ignore[method-assign,func-returns-value]
                return action(tx)

            return await super().change_unversioned(watch)

    world.records = UseRecords(ORIGIN, world.audit, Watched(world.store))
    await settled(world)
    await settled(world)
    assert asked == [ORIGIN]

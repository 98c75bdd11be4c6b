"""Checks are recorded: each by itself up to a rate, then in sums, and in the store in sums for the owner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import BURST
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import check_records
from hsmd.daemon.front.vault.check_records import CheckRecords
from hsmd.daemon.store import CheckCount, CheckSum, CredentialRecord, Store
from hsmd.errors import AuditFailure, Overloaded, StoreFailure
from hsmd.protocol.roles import Role
from tests.support.store import NOW
from tests.support.vault_store import Owner


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "audit"
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.owner = Owner(self.store).enrol()
        self.owner.begin()
        credential = CredentialRecord("SHA256:" + "w" * 43, "line")
        self.store.change(lambda tx: tx.clients.add("web", frozenset({Role.CHECKER}), NOW, credential))
        self.cache = SnapshotCache(self.store)
        self.audit = AuditLog.open(self.directory)
        self.now = 0.0
        self.records = CheckRecords(
            self.audit, self.cache, clock=lambda: self.now, now=lambda: NOW + timedelta(seconds=self.now)
        )
        self.owner_row = self.store.query(lambda tx: tx.vault_checkers.owner_row("ann"))

    def note(self, verdict: str = "match", record: str = "www", **changes: Any) -> None:
        count = CheckCount(self.owner_row, "web", 7, record, verdict, NOW + timedelta(seconds=self.now))
        self.records.note("ann", "ab" * 32, count)

    @property
    def checked(self) -> list[dict[str, Any]]:
        path = self.directory / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [each["fields"] for each in lines if each["event"] == "vault.checked"]

    @property
    def sums(self) -> list[tuple[str, str, str, int]]:
        page = self.store.query(lambda tx: tx.vault_check_sums.page("ann", 0, 100))
        return [(each.record, each.verdict, each.day, each.count) for each in page.items]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.audit.close()
    made.store.close()


async def test_each_check_has_a_record_up_to_a_rate_and_then_sums(world: World) -> None:
    for _ in range(BURST + 5):
        world.note()
    world.note("mismatch", "")
    assert len(world.checked) == BURST
    assert world.checked[0] == {
        "owner": "ann", "record": "www", "verdict": "match", "count": 1, "key": "ab" * 32
    }  # fmt: skip
    await world.records.flush()
    assert world.checked[BURST:] == [
        {"owner": "ann", "record": "www", "verdict": "match", "count": 5},
        {"owner": "ann", "verdict": "mismatch", "count": 1},
    ]
    assert sum(each["count"] for each in world.checked) == BURST + 6
    assert sorted(world.sums) == [
        ("", "mismatch", "2026-03-04", 1), ("www", "match", "2026-03-04", BURST + 5),
    ]  # fmt: skip


async def test_sums_of_days_are_apart_and_add_up(world: World) -> None:
    world.note()
    await world.records.flush()
    world.note()
    world.now = 86_400.0
    world.note()
    await world.records.flush()
    assert sorted(world.sums) == [("www", "match", "2026-03-04", 2), ("www", "match", "2026-03-05", 1)]


async def test_while_the_store_is_away_sums_wait_and_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_records, "MAX_SUMS", 2)

    async def away(action: Any) -> None:
        raise StoreFailure

    with monkeypatch.context() as patch:
        patch.setattr(world.cache, "change_unversioned", away)
        world.note()
        world.records.check_room()
        world.note("mismatch")
        await world.records.flush()
        with pytest.raises(Overloaded):
            world.records.check_room()
        world.note()
    await world.records.flush()
    world.records.check_room()
    assert sorted(each[3] for each in world.sums) == [1, 2]


async def test_while_the_log_cannot_be_written_sums_wait_and_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of owners that there are not are in the log only, so the bound of those for the store does not hold for them."""
    monkeypatch.setattr(check_records, "MAX_SUMS", 2)

    def full() -> None:
        raise AuditFailure

    for _ in range(BURST):
        world.note()
    with monkeypatch.context() as patch:
        patch.setattr(world.audit, "commit", full)
        for owner in ("one", "two"):
            world.records.check_room()
            world.records.note(owner, "ab" * 32, CheckCount(0, "web", 7, "", "no-answer", NOW))
        await world.records.flush()
        with pytest.raises(Overloaded):
            world.records.check_room()
    await world.records.flush()
    world.records.check_room()


async def test_a_check_of_an_unknown_owner_is_in_the_log_only(world: World) -> None:
    count = CheckCount(0, "web", 7, "", "no-answer", NOW)
    world.records.note("nobody", "ab" * 32, count)
    await world.records.flush()
    assert [each["owner"] for each in world.checked] == ["nobody"]
    assert world.sums == []
    assert CheckSum.__slots__

"""The guard of the audit log: when no key may be used, and when it may be used again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.daemon.audit.log import AuditLog, utc_now
from hsmd.daemon.config.settings import AuditConfig
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.daemon.store.records import AuditHead
from hsmd.errors import AuditFailure, BadRequest
from hsmd.transparency import discontinuity
from hsmd.transparency.discontinuity import Discontinuity, State
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Verifier

MIB = 1 << 20


class Room:
    """A log with some records, and a guard of it; `root` is the root of every tree."""

    def __init__(self, directory: Path) -> None:
        self.config = AuditConfig(directory, "group", 5, 1, warn_free_mib=100, reserve_mib=10)
        self.log = AuditLog.open(directory)
        for number in range(8):
            self.log.event("test.event", "", number=number)
        self.log.commit()
        self.hold = KeyHold()
        self.root = b"\1" * 32
        self.private = Ed25519PrivateKey.generate()
        self.vkey = Verifier.from_public_key("hsmd/east", self.private.public_key()).vkey

    def keeper(self, remembered: AuditHead | None = None) -> LogGuard:
        cache: Any = SimpleNamespace()
        checkpointer: Any = SimpleNamespace(
            root_at=self.root_at, standing=self.standing, origin="hsmd/east", verifier_key=self.vkey
        )
        continuity = Continuity(
            "hsmd/east",
            audit=self.log,
            cache=cache,
            hold=self.hold,
            remembered=remembered,
            discontinuities=[],
        )
        return LogGuard(
            self.config, audit=self.log, checkpointer=checkpointer, continuity=continuity, hold=self.hold
        )

    async def root_at(self, size: int) -> bytes:
        return self.root

    async def standing(self) -> Any:
        return SimpleNamespace(size=8)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    made = Room(tmp_path / "audit")
    yield made
    await made.log.close()


async def test_little_room_is_a_warning_too_little_stops_and_room_again_resumes(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = room.keeper()
    seen = []
    for free in (500, 99, 10, 9, 0, 10, 500):
        monkeypatch.setattr(AuditLog, "free_bytes", free * MIB)
        await keeper._check_disk()
        seen.append((bool(keeper.warning), room.hold.error is not None))
    assert seen == [
        (False, False), (True, False), (True, False), (True, True), (True, True), (True, False), (False, False),
    ]  # fmt: skip


async def test_a_log_shorter_than_remembered_stops_at_once(room: Room) -> None:
    keeper = room.keeper(AuditHead("hsmd/east", 9, bytes(32), "key"))
    assert isinstance(room.hold.error, AuditFailure)
    assert "it has 8 records; it had 9" in keeper.held
    assert "hsmd audit discontinuity" in keeper.held
    assert not await keeper.continuity.holds(room.root_at)


async def test_a_log_with_another_past_stops_when_its_tree_is_there(room: Room) -> None:
    other = room.keeper(AuditHead("hsmd/east", 8, b"\2" * 32, "key"))
    assert room.hold.error is None
    assert not await other.continuity.holds(room.root_at)
    assert room.hold.error is not None
    assert "its first 8 records" in other.held


async def test_the_log_that_is_remembered_is_no_trouble(room: Room) -> None:
    for size in (0, 3, 8):
        assert await room.keeper(AuditHead("hsmd/east", size, room.root, "key")).continuity.holds(
            room.root_at
        )
    assert await room.keeper().continuity.holds(room.root_at)
    assert room.hold.error is None


async def test_room_again_does_not_excuse_a_log_that_was_set_back(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = room.keeper(AuditHead("hsmd/east", 9, bytes(32), "key"))
    for free in (0, 500):
        monkeypatch.setattr(AuditLog, "free_bytes", free * MIB)
        await keeper._check_disk()
    assert "it had 9" in room.hold.error.detail


async def test_a_declaration_that_would_bar_all_later_ones_is_refused_and_not_recorded(room: Room) -> None:
    keeper = room.keeper(AuditHead("hsmd/east", 9, bytes(32), room.vkey))

    def declaration(after: timedelta) -> Discontinuity:
        return Discontinuity(
            "hsmd/east", None, State(8, room.root), room.vkey, format_time(utc_now() + after), "restored"
        )

    for after, match in ((timedelta(days=1), "future"), (timedelta(days=-1), "newer")):
        keeper.continuity.discontinuities = [
            discontinuity.sign(declaration(timedelta()), room.private).render()
        ]
        found = declaration(after)
        with pytest.raises(BadRequest, match=match):
            await keeper.declare("ops", found, discontinuity.sign(found, room.private))
        assert (room.log.size, bool(keeper.held)) == (8, True)
    await keeper._check(declaration(timedelta(seconds=30)))

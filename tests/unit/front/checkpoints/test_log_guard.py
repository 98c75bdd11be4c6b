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


class GuardedLog:
    """A log with some records and a guard; `root` is the root of every tree."""

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

    def guard(self, remembered: AuditHead | None = None) -> LogGuard:
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
async def guarded(tmp_path: Path) -> AsyncIterator[GuardedLog]:
    made = GuardedLog(tmp_path / "audit")
    yield made
    await made.log.close()


async def test_little_disk_space_is_a_warning_and_too_little_holds_all_keys(
    guarded: GuardedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded.guard()
    seen = []
    for free in (500, 99, 10, 9, 0, 10, 500):
        monkeypatch.setattr(AuditLog, "free_bytes", free * MIB)
        await guard._check_disk()
        seen.append((bool(guard.warning), guarded.hold.error is not None))
    assert seen == [
        (False, False), (True, False), (True, False), (True, True), (True, True), (True, False), (False, False),
    ]  # fmt: skip


async def test_a_log_shorter_than_remembered_holds_all_keys_at_once(guarded: GuardedLog) -> None:
    guard = guarded.guard(AuditHead("hsmd/east", 9, bytes(32), "key"))
    assert isinstance(guarded.hold.error, AuditFailure)
    assert "it has 8 records; it had 9" in guard.held
    assert "hsmd audit discontinuity" in guard.held
    assert not await guard.continuity.holds(guarded.root_at)


async def test_a_log_with_another_history_holds_all_keys_once_its_tree_is_compared(
    guarded: GuardedLog,
) -> None:
    other = guarded.guard(AuditHead("hsmd/east", 8, b"\2" * 32, "key"))
    assert guarded.hold.error is None
    assert not await other.continuity.holds(guarded.root_at)
    assert guarded.hold.error is not None
    assert "its first 8 records" in other.held


async def test_the_log_that_the_store_remembers_holds_no_keys(guarded: GuardedLog) -> None:
    for size in (0, 3, 8):
        assert await guarded.guard(AuditHead("hsmd/east", size, guarded.root, "key")).continuity.holds(
            guarded.root_at
        )
    assert await guarded.guard().continuity.holds(guarded.root_at)
    assert guarded.hold.error is None


async def test_free_disk_space_does_not_release_keys_held_for_a_rolled_back_log(
    guarded: GuardedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded.guard(AuditHead("hsmd/east", 9, bytes(32), "key"))
    for free in (0, 500):
        monkeypatch.setattr(AuditLog, "free_bytes", free * MIB)
        await guard._check_disk()
    assert "it had 9" in guarded.hold.error.detail


async def test_a_declaration_that_would_prevent_all_later_ones_is_refused_and_not_recorded(
    guarded: GuardedLog,
) -> None:
    guard = guarded.guard(AuditHead("hsmd/east", 9, bytes(32), guarded.vkey))

    def declaration(after: timedelta) -> Discontinuity:
        return Discontinuity(
            "hsmd/east",
            None,
            State(8, guarded.root),
            guarded.vkey,
            format_time(utc_now() + after),
            "restored",
        )

    for after, match in ((timedelta(days=1), "future"), (timedelta(days=-1), "newer")):
        guard.continuity.discontinuities = [
            discontinuity.sign(declaration(timedelta()), guarded.private).render()
        ]
        found = declaration(after)
        with pytest.raises(BadRequest, match=match):
            await guard.declare("ops", found, discontinuity.sign(found, guarded.private))
        assert (guarded.log.size, bool(guard.held)) == (8, True)
    await guard._check(declaration(timedelta(seconds=30)))

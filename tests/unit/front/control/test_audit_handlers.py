"""Handlers of requests about records: how many scans run, and what each client may read, also after it has changed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control import audit as handlers
from hsmd.daemon.front.control.audit import MAX_READERS, THREADS, AuditHandlers
from hsmd.daemon.store import KeySpan, ReadingRights
from hsmd.errors import NotFound
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from tests.support.polling import eventually

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
KEY = b"\1" * 32


def identity(client: str, role: Role = Role.OWNER) -> Identity:
    return Identity(client, frozenset({role}), KeyCredential("F"))


@dataclass
class Snapshot:
    version: int = 1


@dataclass
class Cache:
    """Answers every read with `rights`, and counts reads."""

    rights: ReadingRights = field(default_factory=lambda: ReadingRights(NOON))
    snapshot: Snapshot = field(default_factory=Snapshot)
    reads: int = 0
    gate: asyncio.Event | None = None

    async def read(self, action: Any) -> ReadingRights:
        self.reads += 1
        if self.gate is not None:
            await self.gate.wait()
        return self.rights


class Parts:
    def __init__(self, directory: Path) -> None:
        self.log = AuditLog.open(directory)
        self.log.attempt("web", "cred", "www", KEY, "tls13-server", 0x0403, b"")
        self.log.commit()
        self.cache = Cache()
        self.handlers = AuditHandlers(
            audit=self.log,
            checkpointer=None,
            log_guard=None,
            cache=self.cache,  # type: ignore[arg-type]
        )

    async def about(self, client: str = "team", role: Role = Role.OWNER) -> list[str]:
        return (await self.handlers.about(identity(client, role), messages.AuditAbout(), 9.0)).lines


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    made = Parts(tmp_path / "audit")
    yield made
    await made.log.close()


async def test_what_a_client_may_read_is_read_again_when_the_store_has_changed(parts: Parts) -> None:
    assert await parts.about() == await parts.about() == []
    assert parts.cache.reads == 1, "the pages of one client share it"
    parts.cache.rights = ReadingRights(NOON, (KeySpan(KEY, None, None),))
    parts.cache.snapshot.version += 1
    assert len(await parts.about()) == 1
    parts.cache.rights = ReadingRights(NOON)
    parts.cache.snapshot.version += 1
    assert await parts.about() == []
    for number in range(3 * MAX_READERS):
        await parts.about(f"client-{number}")
    assert len(parts.handlers._readers) == MAX_READERS


async def test_operators_and_auditors_read_all_records_without_the_store(parts: Parts) -> None:
    for role in (Role.OPERATOR, Role.AUDITOR):
        assert len(await parts.about(role=role)) == 1
    assert parts.cache.reads == 0
    for role in set(Role) - {Role.OPERATOR, Role.AUDITOR}:
        assert await parts.about(role.value, role) == []


async def test_a_scan_that_hangs_counts_until_it_ends_although_its_caller_has_gone(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an archive that does not answer would take up all threads, which the store needs too."""
    released, running = threading.Event(), []
    scan = handlers.about

    def slow(*arguments: Any) -> Any:
        running.append(1)
        released.wait(20)
        return scan(*arguments)

    monkeypatch.setattr(handlers, "about", slow)
    clients = [f"client-{number}" for number in range(2 * THREADS)]
    asked = [asyncio.create_task(parts.about(client)) for client in clients]
    try:
        await eventually(lambda: len(running) == THREADS)
        for task in asked[:THREADS]:
            task.cancel()
        await asyncio.gather(*asked[:THREADS], return_exceptions=True)
        assert await parts_are_waiting(asked[THREADS:])
        assert len(running) == THREADS
    finally:
        released.set()
    assert await asyncio.gather(*asked[THREADS:]) == [[]] * THREADS
    assert len(running) == 2 * THREADS


async def test_a_search_that_is_cancelled_before_it_begins_opens_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, opened = threading.Event(), []
    view = parts.log.view

    def open_view() -> Any:
        opened.append(view())
        released.wait(20)
        return opened[-1]

    monkeypatch.setattr(parts.log, "view", open_view)
    before = descriptors()
    asked = [asyncio.create_task(parts.about("web")) for _ in range(9)]
    try:
        await eventually(lambda: len(opened) == 1)
        assert descriptors() == before + 1, "what runs has the log open"
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    finally:
        released.set()
    await eventually(lambda: descriptors() == before)
    assert await parts.about("web") != []
    assert len(opened) == 2


async def test_records_are_read_in_a_thread(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    read = parts.log.read

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(parts.log, "read", watched)
    page = await parts.handlers.read(identity("ann", Role.AUDITOR), messages.AuditRead(first=0), 9.0)
    assert len(page.lines) == 1
    assert threads[0] is not threading.current_thread()


async def test_what_a_client_may_read_is_found_out_once_for_all_its_requests(parts: Parts) -> None:
    """It takes a while for an owner of many keys, which could ask again and again, and take up all threads."""
    parts.cache.gate = asyncio.Event()
    asked = [asyncio.create_task(parts.about()) for _ in range(6)]
    assert await parts_are_waiting(asked)
    for task in asked[:3]:
        task.cancel()
    await asyncio.gather(*asked[:3], return_exceptions=True)
    asked.append(asyncio.create_task(parts.about("web")))
    assert await parts_are_waiting(asked[3:])
    parts.cache.gate.set()
    assert len(await asyncio.gather(*asked[3:])) == 4
    assert parts.cache.reads == 2, "one for each client"


@pytest.mark.parametrize(("role", "told"), [(Role.NODE, False), (Role.OWNER, False), (Role.AUDITOR, True)])
async def test_only_operators_and_auditors_learn_where_a_record_was_archived(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, role: Role, told: bool
) -> None:
    def away(files: Any, index: int) -> bytes:
        raise NotFound("record 0 was archived to /srv/archive")

    monkeypatch.setattr(FilesAtHand, "line", away)
    newest = SimpleNamespace(checkpoint=SimpleNamespace(size=1))
    monkeypatch.setattr(parts.handlers, "_checkpointer", SimpleNamespace(newest=newest))
    with pytest.raises(NotFound, match="archived") as caught:
        await parts.handlers.prove(identity("web", role), messages.AuditProve(index=0), 9.0)
    assert ("/srv" in caught.value.text) == told


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def parts_are_waiting(tasks: list[asyncio.Task[Any]]) -> bool:
    """Whether tasks are not done after everything that can run has run."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not any(task.done() for task in tasks)

"""The snapshot cache: how old its snapshot is, which refreshes are shared, and what listeners are told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.front.access import snapshot_cache
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import Difference, Store
from hsmd.errors import StoreFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.polling import eventually
from tests.support.store import NOW, key_record


async def test_the_age_grows_only_while_the_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_cache, "POLL_S", 0.001)
    now, polls, away = 0.0, 0, False
    store = Store(f"sqlite:///{tmp_path / 'store'}")
    store.migrate()
    version = store.version

    def poll() -> int:
        nonlocal polls
        polls += 1
        if away:
            raise StoreFailure
        return version()

    monkeypatch.setattr(store, "version", poll)
    seen: Any = SnapshotCache(store, clock=lambda: now)
    following = asyncio.create_task(seen.follow())

    async def some_polls() -> None:
        before = polls
        await eventually(lambda: polls > before + 2)

    await some_polls()
    now = 100.0
    await some_polls()
    assert seen.age_s == 0.0
    away = True
    await some_polls()
    now = 300.0
    await some_polls()
    assert seen.age_s == 200.0
    away = False
    await some_polls()
    assert seen.age_s == 0.0
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    store.close()


async def test_requests_that_wait_share_one_refresh_that_began_after_them(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store'}")
    store.migrate()
    cache = SnapshotCache(store)
    loads: list[int] = []
    may_go_on, difference = threading.Event(), store.difference

    def slow(*arguments: Any) -> Difference:
        found = difference(*arguments)
        loads.append(found.standing.version)
        may_go_on.wait(10)
        return found

    store.difference = slow  # type: ignore[method-assign]
    first = asyncio.create_task(cache.refresh())
    await eventually(lambda: bool(loads))
    for number in range(5):
        store.change(lambda tx, name=f"c{number}": tx.clients.add(name, frozenset({Role.AUDITOR}), NOW))  # type: ignore[misc]
    others = [asyncio.create_task(cache.refresh()) for _ in range(5)]
    await asyncio.sleep(0)
    may_go_on.set()
    await asyncio.gather(first, *others)
    assert loads == [1, 6]
    assert (cache.snapshot.version, cache.snapshot.client_count) == (6, 5)
    store.close()


async def test_a_refresh_that_failed_is_not_shared(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store'}")
    store.migrate()
    cache = SnapshotCache(store)
    loads, difference = 0, store.difference

    def failing(*arguments: Any) -> Difference:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise StoreFailure
        return difference(*arguments)

    store.difference = failing  # type: ignore[method-assign]
    results = await asyncio.gather(cache.refresh(), cache.refresh(), return_exceptions=True)
    assert [type(result) for result in results] == [StoreFailure, type(None)]
    assert loads == 2
    store.close()


async def test_listeners_are_told_what_is_different(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store'}")
    store.migrate()
    cache = SnapshotCache(store)
    told: list[Difference] = []
    cache.on_change(told.append)
    await cache.change(lambda tx: tx.clients.add("web", frozenset({Role.FRONT_END}), NOW))
    await cache.change(lambda tx: tx.keys.add(key_record("shop")))
    await cache.change(lambda tx: tx.grants.add("web", "shop", {Purpose.TLS13_SERVER}))
    await cache.refresh()
    assert [each.changes_identities for each in told] == [True, False, False]
    assert [len(each.grants) for each in told] == [0, 0, 1]
    store.close()


def test_long_work_pauses_after_each_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0], sleep=pauses.append)
    monkeypatch.setattr(snapshot_cache, "time", clock)
    pause = snapshot_cache.Breath()
    for _ in range(9):
        now[0] += snapshot_cache.WORK_S * 0.26
        pause()
    assert pauses == [snapshot_cache.PAUSE_S] * 2

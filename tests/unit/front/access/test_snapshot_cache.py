"""The catalogue knows how old its snapshot is: a store that cannot be asked makes it older, one that answers does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.front.access import snapshot_cache
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import Store
from hsmd.errors import StoreFailure
from tests.support.polling import eventually


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

"""A restore is told to every owner, in pages, and to each of them once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import holds as holds_module
from hsmd.daemon.front.vault.holds import Holds
from hsmd.daemon.store import Readers, Store
from hsmd.errors import StoreFailure
from hsmd.protocol.roles import Role
from tests.support.store import NOW
from tests.support.vault_store import Owner

OWNERS = ("ann", "bea", "cat", "dan", "eve")


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A restored store with five owners, which are read two at a time."""
    monkeypatch.setattr(holds_module, "AT_ONCE", 2)
    monkeypatch.setattr(holds_module, "REST_S", 0)
    monkeypatch.setattr(holds_module, "AGAIN_S", 0)
    before = Store(f"sqlite:///{tmp_path}/before.db")
    before.migrate()
    for name in OWNERS:
        Owner(before, name).enrol().begin()
    made = Store(f"sqlite:///{tmp_path}/store.db")
    made.restore(before.export())
    before.close()
    yield made
    made.close()


def told(store: Store) -> list[str]:
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.AUDITOR})), None, 500))
    return [each.subject for each in page.events if each.kind == "vault.held"]


async def follow(store: Store, cache: Any = None) -> int:
    """As a daemon that starts; how often readers were woken."""
    woken: list[int] = []
    await Holds(cache or SnapshotCache(store), lambda: woken.append(1), now=lambda: NOW).follow()
    return len(woken)


async def test_every_owner_is_told_once_by_the_first_daemon_that_starts(store: Store) -> None:
    assert await follow(store) == 3
    assert told(store) == list(OWNERS)
    await follow(store)
    assert told(store) == list(OWNERS)


async def test_a_store_that_fails_is_asked_again_and_none_is_left_out(store: Store) -> None:
    cache = SnapshotCache(store)
    fail = [True, False, True, True, False, False, True]

    class Failing:
        async def read(self, query: Callable[..., Any]) -> Any:
            return await cache.read(query)

        async def change_unversioned(self, change: Callable[..., Any]) -> Any:
            if fail and fail.pop():
                raise StoreFailure
            return await cache.change_unversioned(change)

    await follow(store, Failing())
    assert told(store) == list(OWNERS)

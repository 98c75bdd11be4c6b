"""Numbers for metrics: what waits in the store is counted, and a store that is away leaves the last numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import numbers as numbers_module
from hsmd.daemon.front.vault.numbers import Numbers
from hsmd.daemon.store import Store
from hsmd.errors import StoreFailure
from tests.support.store import NOW
from tests.support.vault_store import Owner, management_statement, stated_key


async def test_keys_that_wait_and_keys_that_are_held_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers_module, "COUNT_S", 0)
    before = Store(f"sqlite:///{tmp_path}/before.db")
    before.migrate()
    for name in ("ann", "bea"):
        Owner(before, name).enrol().begin()
    Owner(before, "cat").enrol()
    waiting = stated_key(management_statement("cat", 1, ""))
    before.change(lambda tx: tx.vault_keys.register("cat", waiting, NOW), versioned=False)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.restore(before.export())
    before.close()
    cache, away, answered = SnapshotCache(store), [False], asyncio.Event()

    class Away:
        async def read(self, query: Callable[..., Any]) -> Any:
            answered.set()
            if away[0]:
                raise StoreFailure
            return await cache.read(query)

    unused: Any = SimpleNamespace(outcomes={"given": 1, "refused": 2}, verdicts={"match": 3})
    reading: Any = Away()
    numbers = Numbers(reading, unused, unused)
    numbers.note_overload()
    task = asyncio.create_task(numbers.follow())
    try:
        while not numbers.read().keys_held:
            await asyncio.sleep(0)
        away[0] = True
        answered.clear()
        await answered.wait()
        found = numbers.read()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close()
    assert (found.given, found.refused, found.checks, found.checks_overloaded) == (1, 2, {"match": 3}, 1)
    assert (found.keys_waiting, found.keys_held) == (1, 2)

"""The pools of all tokens: which new keys of the store their workers are told of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.front.tokens import pools
from hsmd.daemon.front.tokens.pools import TokenPools
from hsmd.daemon.store import KeyRecord
from hsmd.daemon.store.contents import Difference

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class NotedPool:
    """A pool that notes the keys of which it is told."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.changes = 0

    def note_change(self) -> None:
        self.changes += 1

    def note_new_key(self, key: str) -> None:
        self.keys.append(key)


def key(number: int, token: str = "main", made_at: datetime = NOW) -> KeyRecord:
    return KeyRecord("name", KeyType.P256, bytes([number]) * 32, b"", frozenset(), token, made_at)


def told(*keys: KeyRecord | None, whole: bool = False) -> list[str]:
    """The keys of which the workers of `main` are told."""
    return noted(*keys, whole=whole).keys


def noted(*keys: KeyRecord | None, whole: bool = False) -> NotedPool:
    """What the pool of `main` is told when these keys have changed in the store; None for one that was removed."""
    found = TokenPools(max_queue=1, request_replacement=lambda pid: None, now=lambda: NOW)
    pool: Any = NotedPool()
    found._current["main"] = pools._Generation(0, pool)
    standing: Any = None
    found.store_changed(Difference(standing, whole, keys=dict(enumerate(keys))))
    noted_pool: NotedPool = pool
    return noted_pool


def test_workers_are_told_of_new_keys_of_their_token() -> None:
    old = key(3, made_at=NOW - timedelta(hours=1))
    assert told(key(1), key(2, token="other"), old, None) == ["01" * 32]


def test_a_key_that_was_removed_changes_its_token() -> None:
    assert noted(None).changes == 1
    assert noted(key(1)).changes == 0, "the pool notes it with the new key"


def test_at_the_start_nothing_is_new() -> None:
    assert told(key(1), whole=True) == []


def test_pools_are_in_the_order_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own keys are made in the first token, which must not depend on the seed of hashes."""
    found = TokenPools(max_queue=1, request_replacement=lambda pid: None, now=lambda: NOW)
    monkeypatch.setattr(found, "_pool", lambda name: NotedPool())
    names = [f"token-{number}" for number in range(20)]
    found.apply([SimpleNamespace(name=name) for name in names])  # type: ignore[misc]
    assert list(found.pools) == names

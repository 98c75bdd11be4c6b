"""The index of the keys in a token: how often the token is searched."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import TypeVar

import pytest
from pkcs11 import ObjectHandleInvalid

from hsmd.daemon.worker import key_index
from hsmd.pkcs11 import search
from hsmd.pkcs11.search import Slices

R = TypeVar("R")


class EmptyToken:
    """An empty token that counts searches; a search takes `takes_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = 0
        self.now = 100.0
        self.takes_s = 0.0
        monkeypatch.setattr(search, "find", self._find)

    def _find(self, session: object, template: object) -> Iterator[object]:
        self.searches += 1
        self.now += self.takes_s
        return iter(())

    def index(self) -> key_index.KeyIndex:
        return key_index.KeyIndex(None, verify="rsa", clock=lambda: self.now)


def test_a_key_that_is_not_there_is_looked_for_at_once_but_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon may have made it a moment ago."""
    token = EmptyToken(monkeypatch)
    keys = token.index()
    keys.scan()
    searches = token.searches
    for _ in range(50):
        assert keys.find(bytes(32)) is None
    assert token.searches - searches <= 2, "it was looked for once, by its ceiling"


def test_a_key_that_is_not_there_is_looked_for_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    token = EmptyToken(monkeypatch)
    keys = token.index()
    times = []
    for _ in range(4_000):
        before = token.searches
        keys.find(bytes(32))
        if token.searches > before:
            times.append(token.now)
        token.now += 0.5
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == key_index.MISSING_S


def test_looking_for_unknown_keys_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    token = EmptyToken(monkeypatch)
    token.takes_s = 0.5
    keys = token.index()
    for number in range(10_000):
        keys.find(number.to_bytes(32, "big"))
        token.now += 0.1
    assert 10 <= token.searches * token.takes_s <= 1_100 / key_index.FIND_SHARE + key_index.FIND_BURST_S


def at_once(value: R) -> Slices[R]:
    """A search that finds this, in one slice."""
    yield
    return value


class TokenWithKeys:
    """Makes the functions that search a token find these private keys, some of which are destroyed before they are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *destroyed: bool) -> None:
        found = {bytes([number]): gone for number, gone in enumerate(destroyed)}
        found_ceilings = {
            digest: SimpleNamespace(cka_id=digest, value=b"", half=SimpleNamespace(digest=digest))
            for digest in found
        }
        by_id = {digest: [found[digest]] for digest in found}
        monkeypatch.setattr(key_index.ceilings, "reading_all", lambda session: at_once(found_ceilings))
        monkeypatch.setattr(key_index.private_keys, "reading_by_id", lambda session: at_once(by_id))
        monkeypatch.setattr(key_index.KeyPairs, "private_key", self._fitting)
        monkeypatch.setattr(key_index, "open_key", lambda private, ceiling, **_: ceiling)

    @staticmethod
    def _fitting(pairs: object, ceiling: object, candidates: list[bool], proven: int | None) -> object:
        if candidates[0]:
            raise ObjectHandleInvalid
        return SimpleNamespace(private=SimpleNamespace(handle=1))


def test_a_key_that_is_destroyed_during_a_search_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    TokenWithKeys(monkeypatch, False, True, False)
    keys = key_index.KeyIndex(None, verify="rsa")
    keys.scan()
    assert list(keys.keys) == [b"\x00", b"\x02"]


def test_a_search_that_loses_every_key_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    TokenWithKeys(monkeypatch, True, True)
    keys = key_index.KeyIndex(None, verify="rsa")
    with pytest.raises(ObjectHandleInvalid):
        keys.scan()

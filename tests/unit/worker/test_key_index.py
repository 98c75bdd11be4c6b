"""The index of the keys in a token: how often the token is searched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pkcs11 import ObjectHandleInvalid

from hsmd.daemon.worker import key_index


class EmptySession:
    """An empty token that counts searches."""

    def __init__(self) -> None:
        self.searches = 0

    def get_objects(self, template: object) -> list[object]:
        self.searches += 1
        return []


def test_unknown_keys_cause_at_most_one_search_a_second() -> None:
    now = [100.0]
    session = EmptySession()
    keys = key_index.KeyIndex(session, verify="rsa", clock=lambda: now[0])
    keys.scan()
    searches = session.searches
    for _ in range(50):
        assert keys.find(bytes(32)) is None
    assert session.searches == searches
    now[0] += 1.0
    for _ in range(50):
        keys.find(bytes(32))
    assert session.searches == 2 * searches


class TokenWithKeys:
    """Makes the functions that search a token find these private keys, some of which are destroyed before they are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *destroyed: bool) -> None:
        found = {bytes([number]): gone for number, gone in enumerate(destroyed)}
        found_ceilings = {digest: SimpleNamespace(cka_id=digest, value=b"") for digest in found}
        monkeypatch.setattr(key_index.ceilings, "read_all", lambda session: found_ceilings)
        monkeypatch.setattr(key_index, "private_keys_by_id", lambda session: {d: [found[d]] for d in found})
        monkeypatch.setattr(key_index.KeyPairs, "private_key", self._fitting)
        monkeypatch.setattr(key_index, "open_key", lambda private, ceiling, verify: ceiling)

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

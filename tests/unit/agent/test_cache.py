"""The cache of public material: stored completely or not at all, and checked when it is read."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from msgspec.structs import replace

from hsmd.agent.cache import FILE_NAME, Cache, CachedKey, check
from hsmd.errors import ConfigurationError, ProtocolError
from hsmd.protocol.messages import KeyReplacement
from hsmd.system import atomic_file
from tests.support.fake_daemon import SoftKey

NOW = datetime(2026, 11, 30, tzinfo=UTC)
KEYS = [
    CachedKey(SoftKey(name, ed25519.Ed25519PrivateKey.generate()).info, f"chain of {name}")
    for name in ("b", "a")
]


def stored(cache: Cache) -> None:
    assert cache.unstored.is_set()
    asyncio.run(cache.store())
    assert not cache.unstored.is_set()


def opened(directory: Path) -> Cache:
    cache = Cache(directory)
    cache.load()
    return cache


def test_stored_keys_are_read_again(tmp_path: Path) -> None:
    cache = opened(tmp_path / "state")
    assert not cache.complete
    assert cache.replace(KEYS)
    stored(cache)
    again = opened(tmp_path / "state")
    assert again.complete
    assert again.names() == ["a", "b"]
    assert again.get("b") == KEYS[0]
    assert dict(again.digests())["a"].hex() == KEYS[1].info.digest


def test_directory_and_file_are_private(tmp_path: Path) -> None:
    cache = opened(tmp_path / "state")
    cache.replace(KEYS)
    stored(cache)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "state") == [FILE_NAME]


def test_each_method_returns_whether_the_cache_changed(tmp_path: Path) -> None:
    cache = opened(tmp_path / "state")
    assert cache.replace([]) and cache.complete
    assert not cache.replace([])
    assert cache.put(KEYS[0])
    assert not cache.put(KEYS[0])
    assert cache.forget("b")
    assert not cache.forget("b")
    stored(cache)
    assert opened(tmp_path / "state").names() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":2,"keys":[]}', b"\xff" * 100])
def test_a_damaged_file_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    opened(tmp_path / "state")
    (tmp_path / "state" / FILE_NAME).write_bytes(content)
    cache = opened(tmp_path / "state")
    assert not cache.complete
    assert cache.replace(KEYS)
    stored(cache)
    assert opened(tmp_path / "state").complete


def test_digests_must_match_the_public_keys(tmp_path: Path) -> None:
    wrong = CachedKey(msgspec.structs.replace(KEYS[0].info, digest="00" * 32))
    with pytest.raises(ProtocolError, match="digest"):
        check(wrong)
    opened(tmp_path / "state")
    (tmp_path / "state" / FILE_NAME).write_bytes(msgspec.json.encode({"version": 1, "keys": [wrong]}))
    assert opened(tmp_path / "state").names() == []


def test_a_file_that_cannot_be_written_does_not_stop_the_service(tmp_path: Path) -> None:
    cache = opened(tmp_path / "state")
    (tmp_path / "state" / "keys.new").mkdir()
    assert cache.replace(KEYS)
    stored(cache)
    assert cache.names() == ["a", "b"]


def test_names_and_digests_follow_each_change(tmp_path: Path) -> None:
    cache = opened(tmp_path / "state")
    cache.replace(KEYS)
    other = CachedKey(SoftKey("ab", ed25519.Ed25519PrivateKey.generate()).info)
    cache.put(other)
    assert cache.names() == ["a", "ab", "b"]
    assert dict(cache.digests())["ab"].hex() == other.info.digest
    cache.forget("a")
    assert cache.names() == ["ab", "b"] == sorted(dict(cache.digests()))


def test_unsafe_state_directories_are_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        opened(shared)
    (tmp_path / "link").symlink_to(shared)
    with pytest.raises(ConfigurationError, match="must be a directory"):
        opened(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        opened(tmp_path / "file")


async def test_a_write_goes_on_when_its_caller_is_cancelled_and_is_waited_for_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that stops while it writes: one that starts after it finds all keys."""
    begun, may_go_on = threading.Event(), threading.Event()
    replace = atomic_file.replace

    def slowly(*arguments: Any) -> None:
        begun.set()
        assert may_go_on.wait(5)
        replace(*arguments)

    monkeypatch.setattr(atomic_file, "replace", slowly)
    cache = opened(tmp_path / "state")
    cache.put(KEYS[0])
    storing = asyncio.create_task(cache.store())
    await asyncio.to_thread(begun.wait, 5)
    storing.cancel()
    await asyncio.wait([storing])
    settling = asyncio.create_task(cache.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    may_go_on.set()
    await settling
    assert opened(tmp_path / "state").names() == [KEYS[0].info.name]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/www", "", ".www", "a/b"])
def test_a_key_whose_name_is_a_path_is_refused(name: str) -> None:
    """Names of keys become names of files, and a daemon may be under an attacker's control."""
    with pytest.raises(ProtocolError, match="which is none"):
        check(CachedKey(SoftKey(name, ed25519.Ed25519PrivateKey.generate()).info))


def test_the_rule_of_a_name_stays_with_the_key_that_had_it() -> None:
    """A replaced key is used until servers have the new one, by whoever could use it under its old name."""
    replacement = KeyReplacement("a.replaced", "a", NOW)
    for info, switched, rule in (
        ("a.replaced", True, "a"),
        ("a", True, "a"),
    ):
        at = NOW if switched else None
        key = CachedKey(replace(KEYS[0].info, name=info, replacement=replace(replacement, switched_at=at)))
        assert key.rule_name == rule
    assert KEYS[0].rule_name == KEYS[0].info.name


def test_a_new_key_that_gave_the_name_back_is_used_by_whom_the_name_was_for() -> None:
    """Else the users of [defaults] could use it, with a certificate for the name."""
    replacement = KeyReplacement("a", "a.next", NOW)
    for name in ("a", "a.next"):
        key = CachedKey(replace(KEYS[0].info, name=name, replacement=replacement))
        assert key.rule_name == "a"

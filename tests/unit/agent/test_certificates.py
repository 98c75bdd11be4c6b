"""From the cache to versions: at the start, after changes, again for what could not be written, and logged once."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path

import pytest

from hsmd.agent import certificates
from hsmd.agent.cache import Cache, CachedKey
from hsmd.agent.certificates import Certificates
from hsmd.deployment.versions import SWITCHED, CertificateVersions
from hsmd.protocol.messages import KeyInfo
from tests.support.renewals import DAY, NOW, Key


class Front:
    """A cache, and what makes versions of it; `now` can be moved."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.cache = Cache(state)
        self.now: datetime = NOW
        self.versions = CertificateVersions(state)
        self.certificates = Certificates(self.cache, self.versions, now=lambda: self.now)

    def current(self, name: str) -> str:
        return (self.state / "certificates" / name / "current" / "chain.pem").read_text()

    def keep(self, *keys: CachedKey) -> None:
        self.cache.replace(keys)
        asyncio.run(self.certificates.write())

    def taken(self) -> bool:
        """Whether something was announced; it is taken then, as root does."""
        there = (self.state / SWITCHED).exists()
        (self.state / SWITCHED).unlink(missing_ok=True)
        return there


class Log:
    """Keeps what is logged: event, key and error."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def warning(self, event: str, *, key_name: str = "", error: str = "") -> None:
        self.lines.append((event, key_name, error))

    def info(self, event: str, *, count: int) -> None:
        pass

    def of(self, event: str) -> list[tuple[str, str]]:
        """Key and error of each line with this event."""
        return [(key_name, error) for name, key_name, error in self.lines if name == event]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(certificates, "log", made)
    return made


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path)


def cached(key: Key, chain: str) -> CachedKey:
    return CachedKey(
        KeyInfo(key.name, "p-256", key.reference.digest.hex(), key.public_key, [], "t", NOW), chain
    )


def test_each_new_chain_becomes_current_and_is_announced(front: Front) -> None:
    www, mail = Key("www"), Key("mail")
    chains = [www.chain(), www.chain()]
    front.keep(cached(www, chains[0]), cached(mail, ""))
    assert front.current("www") == chains[0]
    assert front.taken()
    assert os.listdir(front.state / "certificates") == ["www"]
    front.keep(cached(www, chains[1]), cached(mail, ""))
    assert front.current("www") == chains[1]
    assert front.taken()


def test_what_is_unchanged_is_not_offered_again(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    www, mail = Key("www"), Key("mail")
    first, second = cached(www, www.chain()), cached(mail, mail.chain())
    front.keep(first, second)
    offered: list[str] = []
    write = front.versions.write
    monkeypatch.setattr(
        front.versions,
        "write",
        lambda offers, *rest: offered.extend(each.name for each in offers) or write(offers, *rest),
    )
    front.keep(first, cached(mail, mail.chain()))
    assert offered == ["mail"]


def test_a_refused_chain_is_logged_once_and_tried_again(front: Front, log: Log) -> None:
    www = Key("www")
    chain = www.chain()
    early = www.chain(NOW + DAY, NOW + 9 * DAY)
    front.keep(cached(www, chain))
    front.keep(cached(www, early))
    asyncio.run(front.certificates.write())
    assert front.current("www") == chain
    assert [(name, "not valid before" in error) for name, error in log.of("certificates.refused")] == [
        ("www", True)
    ]
    front.now = NOW + DAY
    asyncio.run(front.certificates.write())
    assert front.current("www") == early


def test_a_key_that_is_gone_loses_its_versions(front: Front) -> None:
    www, mail = Key("www"), Key("mail")
    kept = cached(mail, mail.chain())
    front.keep(cached(www, www.chain()), kept)
    front.keep(kept)
    assert os.listdir(front.state / "certificates") == ["mail"]


def test_keys_that_are_not_known_yet_lose_nothing(front: Front) -> None:
    """At its first start an agent without a daemon knows no keys, which is not the same as that there are none."""
    www = Key("www")
    front.keep(cached(www, www.chain()))
    again = Front(front.state)
    asyncio.run(again.certificates.write())
    assert os.listdir(front.state / "certificates") == ["www"]


def test_the_next_start_announces_what_a_crash_kept_from_being_announced(front: Front) -> None:
    www = Key("www")
    key = cached(www, www.chain())
    front.keep(key)
    assert front.taken()
    again = Front(front.state)
    again.keep(key)
    assert again.taken()
    asyncio.run(again.certificates.write())
    assert not again.taken()


def test_a_disk_that_cannot_be_written_is_logged_and_tried_again(
    front: Front, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    www = Key("www")
    link = os.symlink

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    front.keep(cached(www, www.chain()))
    asyncio.run(front.certificates.write())
    assert len(log.of("certificates.not_written")) == 1
    monkeypatch.setattr(os, "symlink", link)
    asyncio.run(front.certificates.write())
    assert front.current("www")

"""News of a daemon: followed, and asked for a place again when too many others follow, or when it has no events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hsmd.agent import news
from hsmd.agent.news import REPLACED, News
from hsmd.errors import BadRequest, HsmdError, Overloaded, Unavailable
from hsmd.protocol.messages import MISSED, NOW, Event
from tests.support.fake_control import NOW as AT
from tests.support.polling import eventually


def event(number: int, subject: str, kind: str = REPLACED) -> Event:
    return Event(f"e.{number}", kind, subject, AT, {})


class Daemon:
    """Stands for a connection: `refusal` is why it may not follow."""

    def __init__(self) -> None:
        self.refusal: HsmdError | None = None
        self.pushed: list[Event] = []
        self.since: list[str] = []

    async def events(self, since: str, *, waiting: Callable[[HsmdError], None]) -> AsyncIterator[Event]:
        self.since.append(since)
        waiting(Unavailable("connection lost"))  # passes by itself
        if isinstance(self.refusal, Overloaded):
            waiting(self.refusal)
        if self.refusal is not None:
            raise self.refusal
        for each in self.pushed:
            yield each
        raise Unavailable("closed")


class Heard:
    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.missed = 0

    def miss(self) -> None:
        self.missed += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "AGAIN_S", 0.001)


def start(daemon: Daemon) -> tuple[News, Heard]:
    heard = Heard()
    connection: Any = daemon
    return News(connection, heard.replaced.append, heard.miss), heard


async def test_replaced_certificates_are_told_and_the_cursor_goes_on(quick: None) -> None:
    daemon = Daemon()
    daemon.pushed = [event(1, "www"), event(2, "t", "token.away"), event(3, "", MISSED), event(4, "mail")]
    told, heard = start(daemon)
    await eventually(lambda: len(daemon.since) > 1)
    await told.close()
    assert heard.replaced[:2] == ["www", "mail"]
    assert heard.missed >= 1
    assert daemon.since[:2] == [NOW, "e.4"]


@pytest.mark.parametrize(
    "refusal", [Overloaded("too many sessions follow events"), BadRequest("control request: Invalid value")]
)
async def test_a_daemon_that_cannot_be_followed_is_asked_again_later(quick: None, refusal: HsmdError) -> None:
    """What happened in between may have been missed."""
    daemon = Daemon()
    daemon.refusal = refusal
    told, heard = start(daemon)
    await eventually(lambda: len(daemon.since) > 2)
    assert heard.replaced == []
    daemon.refusal = None
    daemon.pushed = [event(3, "mail")]
    await eventually(lambda: "mail" in heard.replaced)
    await told.close()
    assert heard.missed >= 2
    assert set(daemon.since[:3]) == {NOW}


async def test_a_daemon_that_cannot_be_followed_is_left_alone_for_minutes() -> None:
    daemon = Daemon()
    daemon.refusal = Overloaded("too many sessions follow events")
    told, heard = start(daemon)
    await eventually(lambda: daemon.since == [NOW])
    for _ in range(100):
        await asyncio.sleep(0)
    await told.close()
    assert (daemon.since, heard.missed) == ([NOW], 0)

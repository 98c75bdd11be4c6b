"""News of a daemon: followed, or read now and then when too many others follow; a daemon without events is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hsmd.agent import news
from hsmd.agent.news import REPLACED, News
from hsmd.errors import BadRequest, HsmdError, Overloaded, Unavailable
from hsmd.protocol.messages import MISSED, NOW, Event, EventPage, EventsRead
from tests.support.fake_control import NOW as AT
from tests.support.polling import eventually


def event(number: int, subject: str, kind: str = REPLACED) -> Event:
    return Event(f"e.{number}", kind, subject, AT, {})


class Daemon:
    """Stands for a connection: `refusal` is why it may not follow."""

    def __init__(self) -> None:
        self.refusal: HsmdError | None = None
        self.pushed: list[Event] = []
        self.pages: list[EventPage] = []
        self.since: list[str] = []
        self.read_from: list[str] = []

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

    async def control(self, request: EventsRead, *, timeout_s: float) -> EventPage:
        self.read_from.append(request.since)
        if not self.pages:
            raise Unavailable("none")
        return self.pages.pop(0)


class Heard:
    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.missed = 0

    def miss(self) -> None:
        self.missed += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "READ_EVERY_S", 0.001)
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


async def test_without_a_place_events_are_read_and_the_place_is_asked_for_again(quick: None) -> None:
    daemon = Daemon()
    daemon.refusal = Overloaded("too many sessions follow events")
    daemon.pages = [EventPage([], "e.0", "e.1"), EventPage([event(2, "www")], "e.1", "e.2")]
    told, heard = start(daemon)
    await eventually(lambda: heard.replaced == ["www"])
    daemon.refusal = None
    daemon.pushed = [event(3, "mail")]
    await eventually(lambda: "mail" in heard.replaced)
    await told.close()
    assert daemon.read_from[:3] == [NOW, "e.1", "e.2"][: len(daemon.read_from)]
    assert "e.2" in daemon.since


async def test_more_than_a_page_is_taken_for_all(quick: None) -> None:
    daemon = Daemon()
    daemon.refusal = Overloaded("too many sessions follow events")
    daemon.pages = [EventPage([event(2, "www")], "e.1", "e.2", more=True)]
    told, heard = start(daemon)
    await eventually(lambda: heard.missed == 1)
    await eventually(lambda: len(daemon.read_from) > 1)
    await told.close()
    assert daemon.read_from[1] == NOW


async def test_a_daemon_without_events_is_asked_again_later(quick: None) -> None:
    daemon = Daemon()
    daemon.refusal = BadRequest("control request: Invalid value")
    told, heard = start(daemon)
    await eventually(lambda: len(daemon.since) > 2)
    await told.close()
    assert (heard.replaced, daemon.read_from) == ([], [])

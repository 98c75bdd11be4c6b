"""The stream of events of a client: order, interruptions, a program that is slower than the daemon, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from hsmd.client import event_stream
from hsmd.client.event_stream import MAX_WAITING, EventStream
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    HsmdError,
    Overloaded,
    ProtocolError,
    Refused,
    Unavailable,
)
from hsmd.protocol.messages import Event, EventsFollow, EventsFollowed
from tests.support.polling import eventually

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def event(number: int) -> Event:
    return Event(str(number), "k", "s", NOW, {})


def frame(number: int) -> bytes:
    return msgspec.json.encode(event(number))


class Server:
    """Answers requests to follow on whatever channel there is; a channel is any object here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channel: Any = object()
        self.asked: list[str] = []
        self.answers: list[EventsFollowed | HsmdError] = []
        self.behind_the_answer: list[int] = []
        self.told: list[str] = []
        self.paused: list[float] = []
        self.stream = EventStream(self._connected, "", lambda error: self.told.append(error.text))
        self.seen: list[Event] = []
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.task: asyncio.Task[None] | None = None
        monkeypatch.setattr(event_stream, "control", self._control)
        monkeypatch.setattr(event_stream, "FIRST_PAUSE_S", 0.001)

    def begin(self) -> None:
        """Begin to follow, once the test has said how this answers."""
        self.task = asyncio.get_running_loop().create_task(self._take())

    async def _connected(self) -> Any:
        return self.channel

    async def _control(
        self, channel: Any, request: EventsFollow, timeout_s: float, *, begun: Callable[[], None]
    ) -> EventsFollowed:
        self.asked.append(request.since)
        self.push(999)  # of an earlier request to follow on this channel: must be dropped
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else EventsFollowed(request.since or "0")
        if isinstance(answer, HsmdError):
            raise answer
        begun()
        for number in self.behind_the_answer:
            self.push(number)
        self.behind_the_answer = []
        await asyncio.sleep(0)
        return answer

    def push(self, *numbers: int, channel: Any = None) -> None:
        for number in numbers:
            self.stream.received(channel or self.channel, frame(number))

    async def _take(self) -> None:
        async for one in self.stream.events():
            self.seen.append(one)
            await self.may_take.wait()

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.seen]


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Server(monkeypatch)
    yield made
    if made.task is not None:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


async def test_events_come_in_order_also_those_directly_behind_the_answer(server: Server) -> None:
    server.behind_the_answer = [1, 2]
    server.begin()
    await eventually(lambda: server.ids == ["1", "2"])
    server.push(3)
    await eventually(lambda: server.ids == ["1", "2", "3"])
    assert server.asked == [""]


async def test_a_lost_channel_is_followed_again_from_the_last_event(server: Server) -> None:
    server.behind_the_answer = [1, 2]
    server.begin()
    await eventually(lambda: server.ids == ["1", "2"])
    old, server.channel = server.channel, object()
    server.stream.lost(old, "gone")
    await eventually(lambda: server.asked == ["", "2"])
    server.push(7, channel=old)
    server.push(3)
    await eventually(lambda: server.ids == ["1", "2", "3"])
    assert server.told == ["connection lost: gone"]
    server.stream.lost(object(), "another one")
    assert len(server.told) == 1


async def test_a_slow_program_bounds_what_waits_and_gets_the_rest_later(server: Server) -> None:
    server.may_take.clear()
    server.begin()
    await eventually(lambda: server.asked == [""])
    await eventually(lambda: server.stream._followed is not None)
    server.push(*range(1, 10 * MAX_WAITING))
    await eventually(lambda: server.ids == ["1"])
    assert len(server.stream._events) < MAX_WAITING + 1
    server.behind_the_answer = list(range(MAX_WAITING + 1, MAX_WAITING + 4))
    server.may_take.set()
    await eventually(lambda: server.ids == numbers(1, MAX_WAITING + 3))
    assert server.asked == ["", str(MAX_WAITING)]


async def test_missing_events_are_told_before_those_that_follow(server: Server) -> None:
    server.answers = [EventsFollowed("5", "expired")]
    server.behind_the_answer = [6]
    server.begin()
    await eventually(lambda: len(server.seen) == 2)
    missed, following = server.seen
    assert (missed.id, missed.kind, missed.payload) == ("5", "events.missed", {"reason": "expired"})
    assert following.id == "6"


@pytest.mark.parametrize("error", [Unavailable("busy"), Overloaded(retry_after_ms=1), DeadlineExceeded()])
async def test_what_passes_by_itself_is_tried_again(server: Server, error: HsmdError) -> None:
    server.answers = [error, error]
    server.behind_the_answer = [1]
    server.begin()
    await eventually(lambda: server.ids == ["1"])
    assert server.asked == ["", "", ""]
    assert server.told == [error.text] * 2


@pytest.mark.parametrize("error", [Refused(), BadRequest("since: not a cursor"), ProtocolError()])
async def test_what_does_not_pass_is_raised(server: Server, error: HsmdError) -> None:
    server.answers = [error]
    server.begin()
    with pytest.raises(type(error)):
        assert server.task is not None
        await server.task


@pytest.mark.parametrize("document", [b"", b"[1", b"[]", b"{}", b'{"id":1}', b"\xff", b"[" * 100_000])
async def test_what_is_no_event_is_an_error_of_the_daemon(server: Server, document: bytes) -> None:
    with pytest.raises(ProtocolError):
        server.stream.received(server.channel, document)

"""One channel by itself: a wire that only records, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hsmd.client.channel import OWED_S, Channel
from hsmd.errors import Overloaded, ProtocolError, Unavailable
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    Kind,
    Welcome,
    decode_error,
    encode,
    encode_drain,
    encode_error,
    encode_welcome,
)

WELCOME = encode_welcome(Welcome(1, 3, 65_536, 4))


class World:
    """Wire, owner and clock of one channel."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written = b""
        self.closed = 0
        self.notes: list[tuple[object, ...]] = []
        self.answers: list[tuple[int, bytes]] = []
        self.channel = Channel(self, clock=lambda: self.now)

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed += 1

    async def wait_closed(self) -> None:
        pass

    def channel_alive(self, channel: Channel, alive: bool) -> None:
        self.notes.append(("alive", alive))

    def channel_draining(self, channel: Channel, grace_ms: int) -> None:
        self.notes.append(("draining", grace_ms))

    def channel_lost(self, channel: Channel, reason: str) -> None:
        self.notes.append(("lost", reason))

    def channel_event(self, document: bytes) -> None:
        self.notes.append(("event", document))

    async def greet(self) -> None:
        greeting = asyncio.ensure_future(self.channel.greet(self))
        await asyncio.sleep(0)
        self.channel.received(WELCOME)
        await greeting
        self.written = b""

    def ask(self, timeout_s: float = 1.0) -> object:
        return self.channel.request(
            Kind.KEY_OPERATION,
            Kind.RESULT,
            b"body",
            timeout_s,
            lambda kind, body: self.answers.append((kind, body)),
        )

    async def frames(self) -> list[tuple[int, int, bytes]]:
        await asyncio.sleep(0)
        written, self.written = self.written, b""
        return FrameDecoder(65_536).feed(written)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.greet()
    yield world
    world.channel.close("test ends")


async def test_requests_have_their_own_ids_and_leave_together(world: World) -> None:
    world.ask()
    world.ask()
    assert world.written == b""
    assert await world.frames() == [(Kind.KEY_OPERATION, 1, b"body"), (Kind.KEY_OPERATION, 2, b"body")]


async def test_answers_in_any_order(world: World) -> None:
    for _ in range(3):
        world.ask()
    world.channel.received(encode(Kind.RESULT, 3, b"three") + encode(Kind.RESULT, 1, b"one"))
    assert world.answers == [(Kind.RESULT, b"three"), (Kind.RESULT, b"one")]
    assert len(world.channel._open) == 1


async def test_nothing_can_be_asked_before_the_welcome() -> None:
    world = World()
    with pytest.raises(Unavailable):
        world.ask()
    world.channel.close("test ends")


async def test_limits_of_the_welcome(world: World) -> None:
    for _ in range(4):
        world.ask()
    with pytest.raises(Overloaded):
        world.ask()
    world.channel.received(encode(Kind.RESULT, 2, b""))
    world.ask()


@pytest.mark.parametrize(
    "frame",
    [
        encode(Kind.RESULT, 9, b""),
        encode(Kind.CONTROL_RESULT, 1, b"{}"),
        encode(Kind.ERROR, 9, bytes(6)),
        encode(Kind.RESULT, 0, b""),
        encode(Kind.KEY_OPERATION, 1, b""),
        encode(0x7F, 1, b""),
        encode(Kind.DRAIN, 0, b"1"),
        encode(Kind.ERROR, 0, b"short"),
        WELCOME,
        encode_error(0, ProtocolError("you broke it")),
    ],
)
async def test_a_server_that_breaks_the_rules_ends_the_channel(world: World, frame: bytes) -> None:
    world.ask()
    world.channel.received(frame)
    assert world.closed == 1
    assert world.notes[-1][0] == "lost"
    assert [kind for kind, _ in world.answers] == [Kind.ERROR]
    assert isinstance(decode_error(world.answers[0][1]), Unavailable)


async def test_answered_once_even_if_answered_twice(world: World) -> None:
    world.ask()
    world.channel.received(encode(Kind.RESULT, 1, b"one") + encode(Kind.RESULT, 1, b"two"))
    assert world.answers == [(Kind.RESULT, b"one")]
    assert world.closed == 1


async def test_unknown_optional_frames_are_skipped(world: World) -> None:
    world.channel.received(encode(0x99, 5, b"new"))
    assert world.closed == 0


async def test_pings_are_answered(world: World) -> None:
    world.channel.received(encode(Kind.PING, 77))
    assert await world.frames() == [(Kind.PONG, 77, b"")]


async def test_expired_requests_keep_their_place_until_answered_or_owed_too_long(world: World) -> None:
    for _ in range(4):
        world.ask(timeout_s=0.5)
    await world.frames()
    world.now += 0.6
    world.channel._sweep()
    assert len(world.answers) == 4
    assert [kind for kind, _, _ in await world.frames()] == [Kind.CANCEL] * 4
    with pytest.raises(Overloaded):
        world.ask()
    world.channel.received(encode(Kind.RESULT, 1, b"late"))
    assert len(world.answers) == 4
    world.ask(timeout_s=1000)
    world.now += OWED_S + 1
    world.channel._sweep()
    assert ("lost", "the server owes answers") in world.notes
    assert len(world.answers) == 5


async def test_draining_channel_takes_nothing_new_and_closes_when_done(world: World) -> None:
    world.ask()
    world.channel.received(encode_drain(500))
    assert world.notes[-1] == ("draining", 500)
    with pytest.raises(Unavailable):
        world.ask()
    assert world.closed == 0
    world.channel.received(encode(Kind.RESULT, 1, b"last"))
    assert world.answers == [(Kind.RESULT, b"last")]
    assert world.closed == 1


async def test_idle_channel_closes_when_drained(world: World) -> None:
    world.channel.received(encode_drain(500))
    assert world.closed == 1


async def test_silence_step_by_step(world: World) -> None:
    def beats(seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            world.now += 0.05
            world.channel._check_alive()

    beats(0.15)
    assert Kind.PING in [kind for kind, _, _ in await world.frames()]
    assert world.channel.alive
    beats(0.2)
    assert world.notes[-1] == ("alive", False)
    world.channel.received(encode(Kind.PONG, 1))
    assert world.notes[-1] == ("alive", True)
    beats(2.1)
    assert world.notes[-1][0] == "lost"
    assert world.closed == 1


async def test_loss_is_told_once(world: World) -> None:
    world.ask()
    world.channel.lost("gone")
    world.channel.lost("gone")
    world.channel.received(encode(Kind.RESULT, 1, b""))
    assert [note for note in world.notes if note[0] == "lost"] == [("lost", "gone")]
    assert len(world.answers) == 1


async def test_error_before_the_welcome_is_what_greet_raises() -> None:
    world = World()
    greeting = asyncio.ensure_future(world.channel.greet(world))
    await asyncio.sleep(0)
    world.channel.received(encode_error(0, ProtocolError("no such thing")))
    with pytest.raises(ProtocolError, match="no such thing"):
        await greeting


async def test_unanswerable_wire_counts_as_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise BrokenPipeError("broken")

    monkeypatch.setattr(world, "write", broken)
    world.ask()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [kind for kind, _ in world.answers] == [Kind.ERROR]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pieces=st.lists(
        st.binary(max_size=40)
        | st.builds(encode, st.integers(0, 255), st.integers(0, 6), st.binary(max_size=12)),
        max_size=12,
    )
)
def test_whatever_a_server_sends_every_request_is_answered_at_most_once(pieces: list[bytes]) -> None:
    async def run() -> None:
        world = World()
        await world.greet()
        answers: dict[int, int] = {1: 0, 2: 0, 3: 0}

        def answered(number: int) -> None:
            answers[number] += 1

        for number in answers:
            world.channel.request(
                Kind.KEY_OPERATION, Kind.RESULT, b"", 1, lambda kind, body, number=number: answered(number)
            )
        for piece in pieces:
            world.channel.received(piece)
        world.channel.close("end")
        assert set(answers.values()) == {1}

    asyncio.run(run())

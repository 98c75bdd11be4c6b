"""One client channel, with a transport that only records and a clock that the test sets."""

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


class Harness:
    """Transport, owner and clock of one channel."""

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

    def channel_event(self, channel: Channel, document: bytes) -> None:
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
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    await harness.greet()
    yield harness
    harness.channel.close("test ends")


async def test_requests_have_distinct_ids_and_are_sent_together(harness: Harness) -> None:
    harness.ask()
    harness.ask()
    assert harness.written == b""
    assert await harness.frames() == [(Kind.KEY_OPERATION, 1, b"body"), (Kind.KEY_OPERATION, 2, b"body")]


async def test_answers_may_arrive_in_any_order(harness: Harness) -> None:
    for _ in range(3):
        harness.ask()
    harness.channel.received(encode(Kind.RESULT, 3, b"three") + encode(Kind.RESULT, 1, b"one"))
    assert harness.answers == [(Kind.RESULT, b"three"), (Kind.RESULT, b"one")]
    assert len(harness.channel._open) == 1


async def test_no_request_is_accepted_before_the_welcome() -> None:
    harness = Harness()
    with pytest.raises(Unavailable):
        harness.ask()
    harness.channel.close("test ends")


async def test_the_limits_of_the_welcome_are_kept(harness: Harness) -> None:
    for _ in range(4):
        harness.ask()
    with pytest.raises(Overloaded):
        harness.ask()
    harness.channel.received(encode(Kind.RESULT, 2, b""))
    harness.ask()


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
async def test_a_server_that_breaks_the_rules_ends_the_channel(harness: Harness, frame: bytes) -> None:
    harness.ask()
    harness.channel.received(frame)
    assert harness.closed == 1
    assert harness.notes[-1][0] == "lost"
    assert [kind for kind, _ in harness.answers] == [Kind.ERROR]
    assert isinstance(decode_error(harness.answers[0][1]), Unavailable)


async def test_a_second_answer_is_not_delivered(harness: Harness) -> None:
    harness.ask()
    harness.channel.received(encode(Kind.RESULT, 1, b"one") + encode(Kind.RESULT, 1, b"two"))
    assert harness.answers == [(Kind.RESULT, b"one")]
    assert harness.closed == 1


async def test_unknown_optional_frames_are_skipped(harness: Harness) -> None:
    harness.channel.received(encode(0x99, 5, b"new"))
    assert harness.closed == 0


async def test_pings_are_answered(harness: Harness) -> None:
    harness.channel.received(encode(Kind.PING, 77))
    assert await harness.frames() == [(Kind.PONG, 77, b"")]


async def test_expired_requests_count_until_answered_or_owed_too_long(harness: Harness) -> None:
    for _ in range(4):
        harness.ask(timeout_s=0.5)
    await harness.frames()
    harness.now += 0.6
    harness.channel._sweep()
    assert len(harness.answers) == 4
    assert [kind for kind, _, _ in await harness.frames()] == [Kind.CANCEL] * 4
    with pytest.raises(Overloaded):
        harness.ask()
    harness.channel.received(encode(Kind.RESULT, 1, b"late"))
    assert len(harness.answers) == 4
    harness.ask(timeout_s=1000)
    harness.now += OWED_S + 1
    harness.channel._sweep()
    assert ("lost", "the server owes answers") in harness.notes
    assert len(harness.answers) == 5


async def test_a_draining_channel_accepts_no_requests_and_closes_when_done(harness: Harness) -> None:
    harness.ask()
    harness.channel.received(encode_drain(500))
    assert harness.notes[-1] == ("draining", 500)
    with pytest.raises(Unavailable):
        harness.ask()
    assert harness.closed == 0
    harness.channel.received(encode(Kind.RESULT, 1, b"last"))
    assert harness.answers == [(Kind.RESULT, b"last")]
    assert harness.closed == 1


async def test_an_idle_channel_closes_when_drained(harness: Harness) -> None:
    harness.channel.received(encode_drain(500))
    assert harness.closed == 1


async def test_a_silent_server_is_pinged_then_suspected_then_lost(harness: Harness) -> None:
    def beats(seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            harness.now += 0.05
            harness.channel._check_alive()

    beats(0.15)
    assert Kind.PING in [kind for kind, _, _ in await harness.frames()]
    assert harness.channel.alive
    beats(0.2)
    assert harness.notes[-1] == ("alive", False)
    harness.channel.received(encode(Kind.PONG, 1))
    assert harness.notes[-1] == ("alive", True)
    beats(2.1)
    assert harness.notes[-1][0] == "lost"
    assert harness.closed == 1


async def test_a_loss_is_reported_once(harness: Harness) -> None:
    harness.ask()
    harness.channel.lost("gone")
    harness.channel.lost("gone")
    harness.channel.received(encode(Kind.RESULT, 1, b""))
    assert [note for note in harness.notes if note[0] == "lost"] == [("lost", "gone")]
    assert len(harness.answers) == 1


async def test_greet_raises_the_error_sent_before_the_welcome() -> None:
    harness = Harness()
    greeting = asyncio.ensure_future(harness.channel.greet(harness))
    await asyncio.sleep(0)
    harness.channel.received(encode_error(0, ProtocolError("no such thing")))
    with pytest.raises(ProtocolError, match="no such thing"):
        await greeting


async def test_a_transport_that_cannot_be_written_counts_as_lost(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        raise BrokenPipeError("broken")

    monkeypatch.setattr(harness, "write", broken)
    harness.ask()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [kind for kind, _ in harness.answers] == [Kind.ERROR]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pieces=st.lists(
        st.binary(max_size=40)
        | st.builds(encode, st.integers(0, 255), st.integers(0, 6), st.binary(max_size=12)),
        max_size=12,
    )
)
def test_every_request_is_answered_once_for_any_bytes_from_a_server(pieces: list[bytes]) -> None:
    async def run() -> None:
        harness = Harness()
        await harness.greet()
        answers: dict[int, int] = {1: 0, 2: 0, 3: 0}

        def answered(number: int) -> None:
            answers[number] += 1

        for number in answers:
            harness.channel.request(
                Kind.KEY_OPERATION, Kind.RESULT, b"", 1, lambda kind, body, number=number: answered(number)
            )
        for piece in pieces:
            harness.channel.received(piece)
        harness.channel.close("end")
        assert set(answers.values()) == {1}

    asyncio.run(run())

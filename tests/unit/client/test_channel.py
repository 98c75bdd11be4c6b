"""One client channel, with a transport that only records and a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hsmd.client.channel import (
    CHECK_S,
    IDLE_AFTER_S,
    IDLE_PING_S,
    LOST_AFTER_S,
    OWED_S,
    PING_LATEST_S,
    Channel,
    Ticket,
)
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

    binding = b""

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

    def ask(self, timeout_s: float = 1.0) -> Ticket:
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


async def test_who_gave_up_a_request_gets_the_answer_that_the_server_owes(harness: Harness) -> None:
    settled: list[tuple[int, bytes]] = []
    cancelled, expired, lost, answered = (harness.ask(timeout_s) for timeout_s in (9.0, 0.5, 9.0, 9.0))

    def settles(ticket: Ticket) -> bool:
        return ticket.when_settled(lambda kind, body: settled.append((kind, body)))

    cancelled.cancel()
    lost.cancel()
    harness.now += 0.6
    harness.channel._sweep()
    assert settles(cancelled)
    assert settles(expired)
    assert settles(lost)
    harness.channel.received(encode(Kind.RESULT, answered.request_id, b"in time"))
    assert not settles(answered)
    harness.channel.received(encode(Kind.ERROR, cancelled.request_id, b"error"))
    harness.channel.received(encode(Kind.RESULT, expired.request_id, b"late"))
    assert settled == [(Kind.ERROR, b"error"), (Kind.RESULT, b"late")]
    harness.channel.lost("gone")
    assert [kind for kind, _ in settled[2:]] == [Kind.ERROR]
    assert not settles(lost)


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


def beat(harness: Harness, seconds: float) -> None:
    """Let the checks run for this time; in the test the event loop's own timers are too late for its clock."""
    for _ in range(round(seconds / CHECK_S)):
        harness.now += CHECK_S
        if harness.now >= harness.channel._check_due - 1e-6:
            harness.channel._check_alive()


async def pings(harness: Harness) -> int:
    return [kind for kind, _, _ in await harness.frames()].count(Kind.PING)


async def test_a_server_that_owes_an_answer_is_pinged_then_suspected_then_lost(harness: Harness) -> None:
    harness.ask(timeout_s=30)
    assert await pings(harness) == 0, "it was heard a moment ago"
    beat(harness, 0.15)
    assert await pings(harness) == 1
    assert harness.channel.alive and harness.channel.probing
    beat(harness, 0.25)
    assert harness.notes[-1] == ("alive", False)
    with pytest.raises(Unavailable):
        harness.ask()
    harness.channel.received(encode(Kind.PONG, 2))
    assert harness.notes[-1] == ("alive", True)
    beat(harness, 2.4)
    assert harness.notes[-1][0] == "lost"
    assert harness.closed == 1


async def test_a_server_that_takes_long_and_answers_pings_is_pinged_less_and_less(harness: Harness) -> None:
    harness.ask(timeout_s=30)
    sent = []
    for _ in range(400):  # 20 seconds
        beat(harness, CHECK_S)
        if await pings(harness):
            sent.append(harness.now)
            harness.channel.received(encode(Kind.PONG, 2))
    assert harness.channel.alive
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps[0] < 0.3 and 20 <= len(sent) <= 26
    assert all(PING_LATEST_S - 0.1 < gap < PING_LATEST_S + 0.1 for gap in gaps[5:])
    harness.ask(timeout_s=30)
    beat(harness, 0.15)
    assert await pings(harness) == 1, "another request is at stake"


async def test_an_idle_channel_is_pinged_every_few_seconds(harness: Harness) -> None:
    harness.ask()
    await harness.frames()
    harness.channel.received(encode(Kind.RESULT, 1, b""))
    sent = []
    for _ in range(20 * 60 * 10):  # ten minutes
        beat(harness, CHECK_S)
        if await pings(harness):
            sent.append(harness.now)
            harness.channel.received(encode(Kind.PONG, 2))
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert IDLE_PING_S[0] <= min(gaps) and max(gaps) < IDLE_PING_S[1] + IDLE_AFTER_S + 0.2
    assert len({round(gap, 1) for gap in gaps}) > 5, "with jitter"
    assert ("alive", False) not in harness.notes


async def test_an_answered_ping_of_an_idle_channel_costs_one_more_check(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(harness, IDLE_AFTER_S + CHECK_S)
    checks = 0
    check = harness.channel._check_alive

    def counted() -> None:
        nonlocal checks
        checks += 1
        check()

    monkeypatch.setattr(harness.channel, "_check_alive", counted)
    while not await pings(harness):
        beat(harness, CHECK_S)
    harness.channel.received(encode(Kind.PONG, 1))
    beat(harness, 2 * IDLE_AFTER_S)
    assert checks == 2


async def test_a_server_that_vanishes_while_a_channel_is_idle_is_noticed(harness: Harness) -> None:
    beat(harness, IDLE_AFTER_S + IDLE_PING_S[1] + LOST_AFTER_S + 0.2)
    assert [note[0] for note in harness.notes[-2:]] == ["alive", "lost"]


async def test_the_first_request_after_a_silence_takes_a_ping_along(harness: Harness) -> None:
    beat(harness, IDLE_AFTER_S + 3)
    assert await pings(harness) == 0
    harness.ask()
    assert harness.channel.probing
    assert [kind for kind, _, _ in await harness.frames()] == [Kind.KEY_OPERATION, Kind.PING]
    harness.ask()
    assert await pings(harness) == 0, "one ping is enough"
    beat(harness, 0.25)
    assert harness.channel.alive, "the silence before the request is no evidence"
    beat(harness, 0.15)
    assert harness.notes[-1] == ("alive", False)


async def test_a_request_soon_after_an_answer_sends_no_ping(harness: Harness) -> None:
    for number in range(1, 40):
        harness.ask()
        await harness.frames()
        harness.channel.received(encode(Kind.RESULT, number, b""))
        beat(harness, 0.5)
        assert await pings(harness) == 0
    assert harness.channel.alive


async def test_a_loss_is_reported_once(harness: Harness) -> None:
    harness.ask()
    harness.channel.lost("gone")
    harness.channel.lost("gone")
    harness.channel.received(encode(Kind.RESULT, 1, b""))
    assert [note for note in harness.notes if note[0] == "lost"] == [("lost", "gone")]
    assert len(harness.answers) == 1


async def test_a_server_that_goes_before_the_hello_is_unavailable() -> None:
    harness = Harness()

    def broken(data: bytes) -> None:
        raise BrokenPipeError("channel not open for sending")

    harness.write = broken  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="before the welcome: channel not open"):
        await harness.channel.greet(harness)
    assert harness.closed == 1


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

"""A session on a transport that records calls: limits, protocol errors, and what continues after the peer left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.ssh.session import HALF_FRAME_S, UNREAD_S, Session
from hsmd.daemon.front.ssh.tariff import LONG_BYTES, LONG_TIMES, TARIFF
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    ErrorCode,
    NotFound,
    Overloaded,
    ProtocolError,
    Refused,
)
from hsmd.protocol import messages
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Kind,
    decode_error,
    encode,
    encode_control_request,
    encode_hello,
    encode_key_operation,
)
from hsmd.protocol.roles import Role
from hsmd.system.control_requests import ANSWER_BYTE, MAX_CONTROL_REQUESTS_OF_CLIENT
from hsmd.system.intake import FRAMES_A_TURN, FRAMES_AT_A_TIME, Intakes
from tests.support.polling import eventually

HELLO = encode_hello(3)


class Transport:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.written = b""
        self.broken = False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise BrokenPipeError("Channel not open for sending")
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)

    @property
    def frames(self) -> list[tuple[int, int, bytes]]:
        return FrameDecoder(MAX_ANSWER_LENGTH).feed(self.written)


GRANT = Grant("web", "site", b"\1" * 32, 1, "main", KeyType.P256, 1.0)
JOB = Job((1, 0x0403, b"\1" * 32, b""), 1.0)


class Service:
    def __init__(self) -> None:
        self.draining = False
        self.used: list[int] = []
        self.spent = False
        self.abandoned: list[SigningRequest] = []
        self.fault: ProtocolError | None = None
        self.refuses = False

    def use(self, session: Session, requests: list[tuple[int, bytes]]) -> bool:
        for request_id, _ in requests:
            self.used.append(request_id)
            if self.refuses:
                session.failed(request_id, Refused())
                continue
            session.open_requests[request_id] = SigningRequest(session, request_id, GRANT, 0.0, JOB)
        if self.fault:
            raise self.fault
        return not self.spent

    def abandon(self, requests: list[SigningRequest]) -> None:
        self.abandoned += requests


class Following:
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.full = False
        self.places = 0

    def admit(self, session: Session) -> None:
        if self.full:
            raise Overloaded
        self.places += 1

    def decline(self, session: Session) -> None:
        self.places -= 1

    def start(self, session: Session, cursor: str) -> None:
        self.calls.append(("start", cursor))

    def stop(self, session: Session) -> None:
        self.calls.append(("stop",))


class Parts:
    """A session, with a fake transport and a fake service."""

    def __init__(self, client: str = "web", intakes: Intakes | None = None) -> None:
        self.now = 0.0
        self.transport, self.service, self.following = Transport(), Service(), Following()
        self.ended: list[Session] = []
        self.intakes = intakes or Intakes(TARIFF, lambda: self.now)
        self.intake = self.intakes.join(client)
        self.answer: Coroutine[Any, Any, Any] | None = None
        self.session = Session(
            Identity(client, frozenset({Role.FRONT_END}), KeyCredential("F")),
            self.transport,
            intake=self.intake,
            service=self.service,  # type: ignore[arg-type]
            dispatch=self._dispatch,
            following=self.following,
            max_open_requests=3,
            clock=lambda: self.now,
            ended=self.ended.append,
        )
        self.wait = asyncio.Event()
        self.result: Any = messages.Done()

    async def _dispatch(self, identity: Identity, request: messages.Request, deadline: float) -> Any:
        await self.wait.wait()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def another(self, client: str) -> Parts:
        """Another session of this or another client of the same server."""
        return Parts(client, self.intakes)

    def spent(self) -> float:
        """What the client has paid since it was here, less what it has earned: the clock stands still."""
        return -self.intake.account._balance

    def kinds(self) -> list[int]:
        return [kind for kind, _, _ in self.transport.frames]


@pytest.fixture
async def parts() -> Parts:
    return Parts()


def op(number: int) -> bytes:
    return encode_key_operation(number, 1_000, 1, 0x0403, b"\1" * 32, b"")


def ask(number: int, document: bytes = b'{"op":"whoami"}', ms: int = 1_000) -> bytes:
    return encode_control_request(number, ms, document)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_of_one_read_are_one_batch_and_their_answers_one_write(
    parts: Parts,
) -> None:
    parts.session.received(HELLO + op(1) + op(2) + encode(Kind.PING, 9))
    assert parts.service.used == [1, 2]
    parts.transport.written = b""
    parts.session.answered(1, b"x")
    parts.session.answered(2, b"y")
    assert parts.transport.written == b""
    parts.session.flush()
    assert parts.kinds() == [Kind.RESULT, Kind.RESULT]


async def test_a_peer_that_does_not_complete_a_frame_is_disconnected(parts: Parts) -> None:
    parts.session.received(HELLO)
    parts.session.received(op(1)[:20])
    parts.session.check(HALF_FRAME_S)
    assert parts.transport.calls == []
    parts.session.check(HALF_FRAME_S + 0.1)
    assert parts.transport.calls == ["close"]
    assert decode_error(parts.transport.frames[-1][2]).code == ErrorCode.PROTOCOL


async def test_a_peer_that_sends_no_hello_is_disconnected(parts: Parts) -> None:
    parts.session.check(HALF_FRAME_S + 0.1)
    assert parts.transport.calls == ["close"]


async def test_the_time_limit_applies_to_each_frame(parts: Parts) -> None:
    parts.session.received(HELLO)
    stream = b"".join(encode(Kind.PING, number) for number in range(1, 50))
    for at in range(0, len(stream) - 20, 13):
        parts.now += 1.0
        parts.session.received(stream[at + (6 if at else 0) : at + 13 + 6])
        parts.session.check(parts.now)
    assert parts.transport.calls == []


async def test_a_peer_that_does_not_close_its_end_is_aborted(parts: Parts) -> None:
    parts.session.received(HELLO + b"\xff\xff\xff\xff")
    assert parts.transport.calls == ["close"]
    size = len(parts.transport.written)
    for _ in range(3):
        parts.session.check(UNREAD_S - 0.1)
    assert (parts.transport.calls, len(parts.transport.written)) == (["close"], size), (
        "the peer is informed once"
    )
    parts.session.check(UNREAD_S + 0.1)
    parts.session.check(UNREAD_S + 0.2)
    assert parts.transport.calls == ["close", "abort"]


async def test_a_protocol_error_abandons_open_requests(parts: Parts) -> None:
    parts.session.received(HELLO + op(1) + op(2))
    parts.session.received(encode(Kind.RESULT, 5))
    assert [use.request_id for use in parts.service.abandoned] == [1, 2]
    assert parts.session.idle
    written = parts.transport.written
    parts.session.answered(1, b"late")
    parts.session.flush()
    parts.session.lost()
    parts.session.lost()
    assert parts.transport.written == written
    assert parts.ended


async def test_a_closed_channel_does_not_affect_other_sessions(parts: Parts) -> None:
    """asyncssh raises when it cannot write any more; the delivery of a batch must go on."""
    parts.session.received(HELLO + op(1))
    parts.transport.broken = True
    parts.session.answered(1, b"x")
    parts.session.flush()
    parts.session.failed(2, DeadlineExceeded())
    parts.session.flush()
    parts.session.lost()
    assert parts.ended == [parts.session]


async def test_unread_answers_pause_reading_and_then_disconnect_the_peer(parts: Parts) -> None:
    parts.session.received(HELLO)
    parts.session.pause_writing()
    parts.session.check(UNREAD_S - 1)
    parts.session.resume_writing()
    parts.session.check(UNREAD_S + 1)
    assert parts.transport.calls == ["pause_reading", "resume_reading"]
    parts.now = 50
    parts.session.pause_writing()
    parts.session.check(50 + UNREAD_S + 1)
    assert parts.transport.calls[-1] == "abort"


async def test_open_requests_above_the_limit_are_refused(parts: Parts) -> None:
    parts.session.received(HELLO + b"".join(op(number) for number in range(1, 6)))
    assert parts.service.used == [1, 2, 3]
    errors = [decode_error(body) for kind, _, body in parts.transport.frames if kind == Kind.ERROR]
    assert [error.code for error in errors] == [ErrorCode.OVERLOADED] * 2
    parts.session.answered(1, b"")
    parts.session.received(op(6))
    assert parts.service.used == [1, 2, 3, 6]


async def test_key_operations_and_control_requests_can_be_cancelled(parts: Parts) -> None:
    parts.session.received(HELLO + op(1) + ask(2))
    await settle()
    parts.session.received(encode(Kind.CANCEL, 1) + encode(Kind.CANCEL, 2) + encode(Kind.CANCEL, 77))
    await settle()
    assert [use.request_id for use in parts.service.abandoned] == [1]
    assert decode_error(parts.transport.frames[-1][2]).code == ErrorCode.DEADLINE
    assert not parts.session.idle
    parts.session.failed(1, DeadlineExceeded())
    assert parts.session.idle


async def test_what_is_cancelled_in_the_read_that_brought_it_is_not_begun(parts: Parts) -> None:
    both = op(2) + encode(Kind.CANCEL, 2)
    parts.session.received(HELLO + op(1) + both + both + op(3))
    assert parts.service.used == [1, 3]
    answers = [
        (number, decode_error(body).code)
        for kind, number, body in parts.transport.frames
        if kind == Kind.ERROR
    ]
    assert answers == [(2, ErrorCode.DEADLINE)] * 2
    assert sorted(parts.session.open_requests) == [1, 3]


async def test_control_requests_end_with_their_deadline(parts: Parts) -> None:
    parts.session.received(HELLO + ask(1, ms=20))
    async with asyncio.timeout(5):
        while parts.kinds() != [Kind.WELCOME, Kind.ERROR]:
            await asyncio.sleep(0.005)
    assert decode_error(parts.transport.frames[-1][2]).code == ErrorCode.DEADLINE


@pytest.mark.parametrize(
    ("result", "code"),
    [(NotFound("no such thing"), ErrorCode.NOT_FOUND), (ZeroDivisionError("secret"), ErrorCode.INTERNAL)],
)
async def test_an_internal_fault_ends_one_request_and_hides_its_text(
    parts: Parts, result: Any, code: int
) -> None:
    parts.wait.set()
    parts.result = result
    parts.session.received(HELLO + ask(1))
    await settle()
    error = decode_error(parts.transport.frames[-1][2])
    assert error.code == code
    assert "secret" not in error.text
    parts.result = messages.Done()
    parts.session.received(ask(2))
    await settle()
    assert parts.kinds()[-1] == Kind.CONTROL_RESULT


async def test_an_answer_too_long_for_a_frame_is_not_sent(parts: Parts) -> None:
    parts.wait.set()
    parts.result = messages.PemDocument("x" * (MAX_ANSWER_LENGTH + 1))
    parts.session.received(HELLO + ask(1))
    await settle()
    assert decode_error(parts.transport.frames[-1][2]).code == ErrorCode.BAD_REQUEST


async def test_draining_is_announced_after_the_hello_and_refuses_control_requests(parts: Parts) -> None:
    parts.session.drain(5_000)
    assert parts.transport.written == b""
    parts.session.received(HELLO)
    parts.session.drain(5_000)
    parts.service.draining = True
    parts.session.received(ask(1))
    assert parts.kinds() == [Kind.WELCOME, Kind.DRAIN, Kind.ERROR]


async def test_a_lost_peer_cancels_its_control_requests(parts: Parts) -> None:
    parts.session.received(HELLO + ask(1) + op(2))
    await settle()
    written = parts.transport.written
    parts.session.lost()
    await settle()
    assert parts.session.idle
    assert parts.transport.written == written
    assert [use.request_id for use in parts.service.abandoned] == [2]


async def test_reading_pauses_briefly_for_a_client_above_its_rate(parts: Parts) -> None:
    parts.service.spent = True
    parts.session.received(HELLO)
    parts.session.received(op(1))
    parts.session.received(op(2))
    assert parts.transport.calls == ["hold"], "once for any number of batches"
    await eventually(lambda: parts.transport.calls == ["hold", "release"])


# --- what a client pays for ---


def pings(first: int, count: int) -> bytes:
    return b"".join(encode(Kind.PING, number) for number in range(first, first + count))


def pongs(parts: Parts) -> list[int]:
    return [number for kind, number, _ in parts.transport.frames if kind == Kind.PONG]


async def test_frames_of_one_read_are_handled_in_turns_and_in_order(parts: Parts) -> None:
    parts.session.received(HELLO)
    await settle()
    parts.session.received(pings(1, 2 * FRAMES_A_TURN) + op(9_000) + pings(5_000, 3))
    assert pongs(parts) == list(range(1, FRAMES_A_TURN + 1))
    assert parts.transport.calls == ["hold"], "the connection is not read meanwhile"
    parts.session.received(pings(6_000, 2))
    assert len(pongs(parts)) == FRAMES_A_TURN, "what comes meanwhile is handled later"
    await settle()
    assert pongs(parts) == [*range(1, 2 * FRAMES_A_TURN + 1), 5_000, 5_001, 5_002, 6_000, 6_001]
    assert parts.service.used == [9_000]
    assert parts.transport.calls.count("hold") == parts.transport.calls.count("release") >= 1


async def test_sessions_of_one_client_share_a_turn_and_those_of_others_do_not(parts: Parts) -> None:
    second, other = parts.another("web"), parts.another("mail")
    for each in (parts, second, other):
        each.session.received(HELLO + pings(1, FRAMES_A_TURN - 2))
    assert [len(pongs(each)) for each in (parts, second, other)] == [FRAMES_A_TURN - 2, 0, FRAMES_A_TURN - 2]
    await settle()
    assert len(pongs(second)) == FRAMES_A_TURN - 2


@pytest.mark.parametrize(
    ("frame", "price"),
    [
        (lambda number: encode(Kind.PING, number), TARIFF.frame),
        (lambda number: encode(Kind.PONG, number), TARIFF.frame),
        (lambda number: encode(Kind.CANCEL, number), TARIFF.frame),
        (lambda number: encode(0xEE, number), TARIFF.frame),
        (lambda number: op(number), TARIFF.frame + TARIFF.refusal),
        (lambda number: ask(number), TARIFF.frame + TARIFF.control_request),
        (lambda number: ask(number, b"not JSON"), TARIFF.frame + TARIFF.control_request),
    ],
    ids=["ping", "pong", "cancel", "skipped", "refused", "control", "malformed"],
)
async def test_each_kind_of_frame_has_its_price(parts: Parts, frame: Any, price: float) -> None:
    parts.service.refuses = True
    parts.session.received(HELLO)
    spent = parts.spent()
    parts.session.received(frame(7))
    assert parts.spent() - spent == pytest.approx(price + len(frame(7)) * TARIFF.byte)


async def test_an_accepted_key_operation_costs_next_to_nothing(parts: Parts) -> None:
    parts.session.received(HELLO)
    spent = parts.spent()
    parts.session.received(op(7))
    assert parts.spent() - spent == pytest.approx(TARIFF.key_operation + len(op(7)) * TARIFF.byte)


async def test_bytes_of_long_key_operations_cost_several_times_as_much(parts: Parts) -> None:
    """They are also hashed, copied to a worker, checked and hashed again there."""

    def spent(data: bytes) -> float:
        before = parts.spent()
        frame = encode_key_operation(7, 1_000, 1, 0x0403, b"\1" * 32, data)
        parts.session.received(frame)
        parts.session.answered(7, b"")
        return parts.spent() - before - len(frame) * TARIFF.byte - TARIFF.key_operation

    parts.session.received(HELLO)
    assert spent(b"x" * (LONG_BYTES - 100)) == pytest.approx(0.0, abs=1e-6)
    assert spent(b"x" * 60_000) == pytest.approx(60_000 * LONG_TIMES * TARIFF.byte, rel=0.01)


async def test_the_answer_to_a_control_request_costs_by_its_length(parts: Parts) -> None:
    parts.result = messages.Done()
    parts.wait.set()
    parts.session.received(HELLO + ask(7))
    spent = parts.spent()
    await eventually(lambda: Kind.CONTROL_RESULT in parts.kinds())
    answer = encode(Kind.CONTROL_RESULT, 7, messages.encode_result(messages.Done()))
    assert parts.spent() - spent == pytest.approx(len(answer) * ANSWER_BYTE)


async def test_a_client_that_is_overdrawn_is_handled_again_when_it_has_recovered(parts: Parts) -> None:
    parts.service.refuses = True
    parts.session.received(HELLO)
    parts.intake.spend(TARIFF.burst)
    parts.session.received(encode(Kind.PING, 1) + encode(Kind.PING, 2))
    parts.session.received(encode(Kind.PING, 3))
    await settle()
    assert pongs(parts) == []
    parts.now += 1.0
    await eventually(lambda: pongs(parts) == [1, 2, 3])


async def test_refused_operations_near_the_limit_are_handled_a_few_at_a_time(parts: Parts) -> None:
    parts.service.refuses, parts.session._max_open_requests = True, 1_000
    parts.session.received(HELLO)
    parts.intake.spend(TARIFF.burst * 0.6)
    await settle()
    parts.session.received(b"".join(op(number) for number in range(1, 100)))
    assert parts.kinds().count(Kind.ERROR) == FRAMES_AT_A_TIME
    await settle()
    assert parts.kinds().count(Kind.ERROR) > FRAMES_AT_A_TIME


async def test_control_requests_of_a_client_are_limited_over_all_its_sessions(parts: Parts) -> None:
    sessions = [parts, *(parts.another("web") for _ in range(4))]
    for each in sessions:
        each.session.received(HELLO)
        for number in range(1, 9):
            each.session.received(ask(number))
            await settle()
    refused = [each.kinds().count(Kind.ERROR) for each in sessions]
    assert refused == [0, 0, 0, 0, 8]
    assert parts.intake.control_requests == 4 * 8 == MAX_CONTROL_REQUESTS_OF_CLIENT
    other = parts.another("mail")
    other.session.received(HELLO + ask(1))
    assert Kind.ERROR not in other.kinds()
    parts.session.lost()
    await eventually(lambda: parts.intake.control_requests == 3 * 8)


async def test_a_session_that_ends_while_its_frames_wait_handles_no_more(parts: Parts) -> None:
    parts.session.received(HELLO + pings(1, FRAMES_A_TURN + 5))
    parts.session.lost()
    await settle()
    assert len(pongs(parts)) < FRAMES_A_TURN + 5
    assert parts.transport.calls == ["hold", "release"]


# --- events ---


def follow(number: int = 7) -> bytes:
    return encode_control_request(number, 1_000, b'{"op":"events.follow"}')


async def test_following_begins_behind_the_answer(parts: Parts) -> None:
    parts.result = messages.EventsFollowed("5f3a9c1e.7")
    parts.session.received(HELLO + follow())
    parts.wait.set()
    await eventually(lambda: ("start", "5f3a9c1e.7") in parts.following.calls)
    await eventually(lambda: Kind.CONTROL_RESULT in parts.kinds())
    assert parts.following.places == 1


async def test_a_request_to_follow_that_fails_or_is_cancelled_gives_its_place_back(parts: Parts) -> None:
    parts.session.received(HELLO + follow(1) + follow(2))
    await eventually(lambda: parts.following.places == 2)
    parts.session.received(encode(Kind.CANCEL, 1))
    await eventually(lambda: parts.following.places == 1)
    parts.result = BadRequest("since: x")
    parts.wait.set()
    await eventually(lambda: parts.following.places == 0)
    assert parts.following.calls == []


async def test_following_is_refused_without_the_capability_and_beyond_the_limit(parts: Parts) -> None:
    parts.session.received(encode_hello(1) + follow())
    await eventually(lambda: Kind.ERROR in parts.kinds())
    assert b"capability for events" in parts.transport.written
    assert parts.following.calls == []

    full = Parts()
    full.following.full = True
    full.session.received(HELLO + follow())
    await eventually(lambda: Kind.ERROR in full.kinds())
    assert decode_error(full.transport.frames[-1][2]).code == ErrorCode.OVERLOADED
    assert full.following.calls == []


async def test_pushed_events_end_with_a_ping_whose_pong_tells_that_they_were_read(parts: Parts) -> None:
    parts.session.received(HELLO)
    read = parts.session.push([b"{}", b"{}"])
    (event, _, _), _, (ping, number, _) = parts.transport.frames[1:]
    assert (event, ping) == (Kind.EVENT, Kind.PING)
    parts.session.received(encode(Kind.PONG, number + 1))
    assert not read.done()
    parts.session.received(encode(Kind.PONG, number))
    assert read.done()
    parts.session.received(encode(Kind.PONG, number))
    parts.now += UNREAD_S + 1
    parts.session.check(parts.now)
    assert "abort" not in parts.transport.calls


async def test_a_peer_that_does_not_answer_the_ping_is_dropped(parts: Parts) -> None:
    parts.session.received(HELLO)
    parts.session.push([b"{}"])
    parts.now += UNREAD_S
    parts.session.check(parts.now)
    assert "abort" not in parts.transport.calls
    parts.now += 0.1
    parts.session.check(parts.now)
    assert parts.transport.calls.count("abort") == 1


async def test_the_end_of_a_session_ends_what_it_follows(parts: Parts) -> None:
    parts.session.received(HELLO)
    parts.session.lost()
    assert ("stop",) in parts.following.calls

    broken = Parts()
    broken.session.received(HELLO + b"\xff" * 20)
    assert ("stop",) in broken.following.calls

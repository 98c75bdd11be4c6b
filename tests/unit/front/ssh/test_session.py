"""A session on a transport that notes what it is told: bounds, breaks, and what outlives a peer."""

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
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import DeadlineExceeded, ErrorCode, NotFound, ProtocolError
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

HELLO = encode_hello(3)


class Transport:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.written = b""
        self.broken = False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise BrokenPipeError("Channel not open for sending")
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda: self.told.append(name)

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

    def use(self, session: Session, requests: list[tuple[int, bytes]]) -> bool:
        for request_id, _ in requests:
            self.used.append(request_id)
            session.open_requests[request_id] = SigningRequest(session, request_id, GRANT, 0.0, JOB)
        if self.fault:
            raise self.fault
        return not self.spent

    def abandon(self, requests: list[SigningRequest]) -> None:
        self.abandoned += requests


class Room:
    """One session and everything around it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.transport, self.service = Transport(), Service()
        self.ended: list[Session] = []
        self.answer: Coroutine[Any, Any, Any] | None = None
        self.session = Session(
            Identity("web", Role.FRONT_END, KeyCredential("F")),
            self.transport,
            service=self.service,  # type: ignore[arg-type]
            dispatch=self._dispatch,
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

    def kinds(self) -> list[int]:
        return [kind for kind, _, _ in self.transport.frames]


@pytest.fixture
async def room() -> Room:
    return Room()


def op(number: int) -> bytes:
    return encode_key_operation(number, 1_000, 1, 0x0403, b"\1" * 32, b"")


def ask(number: int, document: bytes = b'{"op":"whoami"}', ms: int = 1_000) -> bytes:
    return encode_control_request(number, ms, document)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_in_one_read_goes_to_the_service_as_one_batch_and_answers_in_one_piece(
    room: Room,
) -> None:
    room.session.received(HELLO + op(1) + op(2) + encode(Kind.PING, 9))
    assert room.service.used == [1, 2]
    room.transport.written = b""
    room.session.answered(1, b"x")
    room.session.answered(2, b"y")
    assert room.transport.written == b""
    room.session.flush()
    assert room.kinds() == [Kind.RESULT, Kind.RESULT]


async def test_a_peer_may_not_hold_half_a_frame(room: Room) -> None:
    room.session.received(HELLO)
    room.session.received(op(1)[:20])
    room.session.check(HALF_FRAME_S)
    assert room.transport.told == []
    room.session.check(HALF_FRAME_S + 0.1)
    assert room.transport.told == ["close"]
    assert decode_error(room.transport.frames[-1][2]).code == ErrorCode.PROTOCOL


async def test_nor_stay_silent(room: Room) -> None:
    room.session.check(HALF_FRAME_S + 0.1)
    assert room.transport.told == ["close"]


async def test_each_frame_has_its_own_time(room: Room) -> None:
    room.session.received(HELLO)
    stream = b"".join(encode(Kind.PING, number) for number in range(1, 50))
    for at in range(0, len(stream) - 20, 13):
        room.now += 1.0
        room.session.received(stream[at + (6 if at else 0) : at + 13 + 6])
        room.session.check(room.now)
    assert room.transport.told == []


async def test_a_peer_that_does_not_close_its_end_is_dropped_in_the_end(room: Room) -> None:
    room.session.received(HELLO + b"\xff\xff\xff\xff")
    assert room.transport.told == ["close"]
    size = len(room.transport.written)
    for _ in range(3):
        room.session.check(UNREAD_S - 0.1)
    assert (room.transport.told, len(room.transport.written)) == (["close"], size), "told once"
    room.session.check(UNREAD_S + 0.1)
    room.session.check(UNREAD_S + 0.2)
    assert room.transport.told == ["close", "abort"]


async def test_a_broken_session_gives_up_what_is_open(room: Room) -> None:
    room.session.received(HELLO + op(1) + op(2))
    room.session.received(encode(Kind.RESULT, 5))
    assert [use.request_id for use in room.service.abandoned] == [1, 2]
    assert room.session.idle
    written = room.transport.written
    room.session.answered(1, b"late")
    room.session.flush()
    room.session.lost()
    room.session.lost()
    assert room.transport.written == written
    assert room.ended


async def test_a_channel_that_closed_meanwhile_harms_nobody(room: Room) -> None:
    """asyncssh raises when it cannot write any more; whoever delivers a batch must not hear of it."""
    room.session.received(HELLO + op(1))
    room.transport.broken = True
    room.session.answered(1, b"x")
    room.session.flush()
    room.session.failed(2, DeadlineExceeded())
    room.session.flush()
    room.session.lost()
    assert room.ended == [room.session]


async def test_unread_answers_stop_reading_and_end_the_peer(room: Room) -> None:
    room.session.received(HELLO)
    room.session.pause_writing()
    room.session.check(UNREAD_S - 1)
    room.session.resume_writing()
    room.session.check(UNREAD_S + 1)
    assert room.transport.told == ["pause_reading", "resume_reading"]
    room.now = 50
    room.session.pause_writing()
    room.session.check(50 + UNREAD_S + 1)
    assert room.transport.told[-1] == "abort"


async def test_too_many_open_requests(room: Room) -> None:
    room.session.received(HELLO + b"".join(op(number) for number in range(1, 6)))
    assert room.service.used == [1, 2, 3]
    errors = [decode_error(body) for kind, _, body in room.transport.frames if kind == Kind.ERROR]
    assert [error.code for error in errors] == [ErrorCode.OVERLOADED] * 2
    room.session.answered(1, b"")
    room.session.received(op(6))
    assert room.service.used == [1, 2, 3, 6]


async def test_cancel_reaches_key_operations_and_control_requests(room: Room) -> None:
    room.session.received(HELLO + op(1) + ask(2))
    await settle()
    room.session.received(encode(Kind.CANCEL, 1) + encode(Kind.CANCEL, 2) + encode(Kind.CANCEL, 77))
    await settle()
    assert [use.request_id for use in room.service.abandoned] == [1]
    assert decode_error(room.transport.frames[-1][2]).code == ErrorCode.DEADLINE
    assert not room.session.idle
    room.session.failed(1, DeadlineExceeded())
    assert room.session.idle


async def test_control_requests_end_with_their_deadline(room: Room) -> None:
    room.session.received(HELLO + ask(1, ms=20))
    async with asyncio.timeout(5):
        while room.kinds() != [Kind.WELCOME, Kind.ERROR]:
            await asyncio.sleep(0.005)
    assert decode_error(room.transport.frames[-1][2]).code == ErrorCode.DEADLINE


@pytest.mark.parametrize(
    ("result", "code"),
    [(NotFound("no such thing"), ErrorCode.NOT_FOUND), (ZeroDivisionError("secret"), ErrorCode.INTERNAL)],
)
async def test_faults_end_one_request_and_say_no_more_than_they_should(
    room: Room, result: Any, code: int
) -> None:
    room.wait.set()
    room.result = result
    room.session.received(HELLO + ask(1))
    await settle()
    error = decode_error(room.transport.frames[-1][2])
    assert error.code == code
    assert "secret" not in error.text
    room.result = messages.Done()
    room.session.received(ask(2))
    await settle()
    assert room.kinds()[-1] == Kind.CONTROL_RESULT


async def test_an_answer_too_long_for_a_frame_is_not_sent(room: Room) -> None:
    room.wait.set()
    room.result = messages.PemDocument("x" * (MAX_ANSWER_LENGTH + 1))
    room.session.received(HELLO + ask(1))
    await settle()
    assert decode_error(room.transport.frames[-1][2]).code == ErrorCode.BAD_REQUEST


async def test_draining_refuses_control_and_announces_itself_to_those_who_said_hello(room: Room) -> None:
    room.session.drain(5_000)
    assert room.transport.written == b""
    room.session.received(HELLO)
    room.session.drain(5_000)
    room.service.draining = True
    room.session.received(ask(1))
    assert room.kinds() == [Kind.WELCOME, Kind.DRAIN, Kind.ERROR]


async def test_a_lost_peer_cancels_its_control_requests(room: Room) -> None:
    room.session.received(HELLO + ask(1) + op(2))
    await settle()
    written = room.transport.written
    room.session.lost()
    await settle()
    assert room.session.idle
    assert room.transport.written == written
    assert [use.request_id for use in room.service.abandoned] == [2]


async def test_a_client_beyond_its_share_is_not_read_for_a_moment(room: Room) -> None:
    room.service.spent = True
    room.session.received(HELLO)
    room.session.received(op(1))
    room.session.received(op(2))
    assert room.transport.told == ["pause_reading"], "once, however many batches"
    room.session.pause_writing()
    room.session.resume_writing()
    assert "resume_reading" not in room.transport.told, "its rest is not over yet"
    async with asyncio.timeout(5):
        while room.transport.told[-1] != "resume_reading":
            await asyncio.sleep(0.005)

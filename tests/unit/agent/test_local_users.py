"""One account for each local user: what all its connections may have handled in a turn, hold, and leave unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.agent import session as sessions_of_users, sessions as limits
from hsmd.agent.session import Session
from hsmd.agent.sessions import TARIFF, Sessions
from hsmd.errors import DeadlineExceeded, ErrorCode, Overloaded, Refused, RefusedHere, Unavailable
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Kind,
    decode_error,
    decode_key_operation_head,
    encode,
    encode_error,
    encode_hello,
    encode_key_operation,
)
from tests.support.fake_loop import FakeLoop

KEY, OTHER = b"k" * 32, b"o" * 32
ALICE, BOB = 1000, 1001


class Transport:
    """What a session writes, and whether its connection is read."""

    def __init__(self) -> None:
        self.written = b""
        self.reads = True
        self.unsent = 0
        self.closed = self.aborted = False
        self.pause_reading = lambda: setattr(self, "reads", False)
        self.resume_reading = lambda: setattr(self, "reads", True)
        self.set_write_buffer_limits = lambda high: None
        self.get_write_buffer_size = lambda: self.unsent

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed


class Service:
    """Knows one key, and keeps the operations that it would send to a daemon."""

    def __init__(self) -> None:
        self.forwarded: list[tuple[bytes, Callable[[int, bytes], None]]] = []
        self.owed: list[Callable[[int, bytes], object]] = []
        self.outcomes: Counter[int] = Counter()
        self.owes = False
        self.full = False

    def keys_for(self, uid: int) -> frozenset[bytes]:
        return frozenset({KEY})

    def missed(self, uid: int) -> RefusedHere:
        return RefusedHere("not this key")

    def forward(self, body: bytes, deadline_ms: int, answered: Callable[[int, bytes], None]) -> Any:
        if self.full:
            raise Overloaded("too many requests are open")
        self.forwarded.append((body, answered))
        return SimpleNamespace(cancel=lambda: None, when_settled=self._when_settled)

    def _when_settled(self, settled: Callable[[int, bytes], object]) -> bool:
        if self.owes:
            self.owed.append(settled)
        return self.owes

    def count(self, code: int) -> None:
        self.outcomes[code] += 1

    def refused(self, purpose: str) -> RefusedHere:
        return RefusedHere(f"not for {purpose}")


class Host:
    """The agent's sessions, without sockets."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.sessions = Sessions(clock=lambda: self.loop.now, loop=self.loop)
        self.service = Service()

    def connect(self, uid: int) -> Peer:
        user = self.sessions.admit(uid)
        assert user is not None
        peer = Peer(Session(self.service, self.sessions, user))  # type: ignore[arg-type]
        peer.send(encode_hello(0))
        peer.transport.written = b""
        return peer


class Peer:
    """One connection, as its client sees it."""

    def __init__(self, session: Session) -> None:
        self.session, self.transport = session, Transport()
        session.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        """Let the agent read `data` as far as it reads in one turn."""
        assert self.transport.reads
        buffer = self.session.get_buffer(-1)
        buffer[: len(data)] = data
        self.session.buffer_updated(len(data))

    @property
    def answers(self) -> int:
        return self.transport.written.count(b"\0\0\0\x09\x04")


@pytest.fixture
def host() -> Host:
    return Host()


def pings(count: int) -> bytes:
    return b"".join(encode(Kind.PING, number) for number in range(1, count + 1))


def use(number: int, key: bytes = KEY) -> bytes:
    return encode_key_operation(number, 5_000, 1, 0x0403, key, b"data")


A_TURN = int(TARIFF.turn / TARIFF.frame)
"""Pings that a user has answered in a turn."""


def test_a_turn_answers_a_bounded_number_of_frames_and_the_next_one_the_rest(host: Host) -> None:
    peer = host.connect(ALICE)
    host.loop.turn()
    peer.send(pings(2 * A_TURN))
    assert A_TURN <= peer.answers <= A_TURN + sessions_of_users.FRAMES_AT_A_TIME
    assert not peer.transport.reads
    for _ in range(4):
        host.loop.turn()
    assert peer.answers == 2 * A_TURN
    assert peer.transport.reads


def test_many_connections_of_a_user_share_its_turn_and_others_have_theirs(host: Host) -> None:
    flood = [host.connect(ALICE) for _ in range(8)]
    other = host.connect(BOB)
    host.loop.turn()
    for peer in flood:
        peer.send(pings(A_TURN))
    other.send(use(1))
    assert len(host.service.forwarded) == 1, "the operation of another user is sent in the same turn"
    assert sum(peer.answers for peer in flood) <= A_TURN + sessions_of_users.FRAMES_AT_A_TIME
    for _ in range(20):
        host.loop.turn()
    assert [peer.answers for peer in flood] == [A_TURN] * 8, "each connection has its turn"


@pytest.mark.parametrize(
    "flood",
    [pings(100), b"".join(use(number, OTHER) for number in range(1, 101)), encode(0xEE, 9) * 100],
    ids=["pings", "refused operations", "frames of later versions"],
)
def test_a_user_beyond_its_share_is_not_read_for_a_while(host: Host, flood: bytes) -> None:
    peer, other = host.connect(ALICE), host.connect(BOB)
    sent = 0
    for _ in range(10_000):
        host.loop.turn()
        if peer.transport.reads:
            peer.send(flood)
            sent += 1
        elif host.loop.next_timer is not None:
            break
    assert not peer.transport.reads
    assert sent <= TARIFF.burst / TARIFF.frame / 100 + 1, "each of the hundred frames has its price"
    host.loop.turn()
    assert not peer.transport.reads
    other.send(use(1))
    assert len(host.service.forwarded) == 1, "another user is served meanwhile"
    host.loop.now += 1.0
    for _ in range(20):
        host.loop.turn()
    assert peer.transport.reads


def test_what_a_user_sends_in_pieces_is_charged_too(host: Host) -> None:
    peer = host.connect(ALICE)
    peer.send((65_536).to_bytes(4, "big") + b"\xee")
    for _ in range(int(TARIFF.burst / TARIFF.frame) + 100):
        host.loop.turn()
        if not peer.transport.reads:
            break
        peer.send(b"\0")
    assert not peer.transport.reads


def test_a_user_that_holds_too_many_half_frames_loses_the_connection_that_brings_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_of_users, "MAX_HELD_OF_USER", 30_000)
    half = (65_536).to_bytes(4, "big") + bytes(9_000)
    peers = [host.connect(ALICE) for _ in range(4)]
    other = host.connect(BOB)
    for peer in (*peers, other):
        peer.send(half)
    assert [peer.transport.closed for peer in peers] == [False, False, False, True]
    assert not other.transport.closed
    assert decode_error(peers[3].transport.written[13:]).code == ErrorCode.OVERLOADED
    for peer in peers:
        peer.session.connection_lost(None)
    host.loop.turn()
    again = host.connect(ALICE)
    again.send(half)
    assert not again.transport.closed, "what ended connections held counts no more"


def test_a_user_that_leaves_too_much_unread_loses_the_connection(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_of_users, "MAX_UNREAD_OF_USER", 100_000)
    first, second, other = host.connect(ALICE), host.connect(ALICE), host.connect(BOB)
    for peer in (first, second, other):
        peer.transport.unsent = 60_000
        peer.session.pause_writing()
    assert (first.transport.aborted, second.transport.aborted, other.transport.aborted) == (
        False,
        True,
        False,
    )
    first.session.resume_writing()
    third = host.connect(ALICE)
    second.session.connection_lost(None)
    third.transport.unsent = 60_000
    third.session.pause_writing()
    assert not third.transport.aborted


def test_half_a_frame_that_grows_byte_by_byte_ends_too(host: Host) -> None:
    peer = host.connect(ALICE)
    peer.send((1_000).to_bytes(4, "big"))
    for _ in range(3):
        host.loop.now += sessions_of_users.HALF_FRAME_S * 0.4
        host.loop.turn()
        host.sessions.check()
        if not peer.transport.closed:
            peer.send(b"\0")
    assert peer.transport.closed


# --- the part of the daemon's capacity that a user has ---


def test_when_the_daemon_has_enough_each_user_has_an_equal_part(host: Host) -> None:
    flood = [host.connect(ALICE) for _ in range(4)]
    other = host.connect(BOB)
    for peer in flood:
        peer.send(b"".join(use(number) for number in range(1, 61)))
        for _ in range(4):
            host.loop.turn()
    assert len(host.service.forwarded) == 240
    overloaded = encode_error(1, Overloaded())[13:]
    for _, answered in host.service.forwarded[:200]:
        answered(Kind.ERROR, overloaded)
    held = host.sessions.open_requests
    assert held == 40
    flood[0].send(b"".join(use(number) for number in range(100, 160)))
    assert host.sessions.open_requests <= 60, "what the daemon refuses is not sent"
    host.loop.turn()
    before = len(host.service.forwarded)
    other.send(use(1))
    assert len(host.service.forwarded) == before + 1, "a user below its part is served"


@pytest.mark.parametrize("end", ["cancel", "close", "expire"])
def test_what_a_user_gave_up_counts_until_the_daemon_has_answered_it(host: Host, end: str) -> None:
    """Or one user could fill all places at the daemon with operations that are not awaited."""
    host.service.owes = True
    late = encode_error(1, DeadlineExceeded())[13:]
    for _ in range(limits.MAX_OPEN_OF_USER // 32 + 2):
        peer = host.connect(ALICE)
        host.loop.now += 1.0
        host.loop.turn()
        began = len(host.service.forwarded)
        peer.send(b"".join(use(number) for number in range(1, 33)))
        for _ in range(4):
            host.loop.turn()
        if end == "cancel":
            peer.send(b"".join(encode(Kind.CANCEL, number) for number in range(1, 33)))
        elif end == "close":
            peer.session.connection_lost(None)
        else:
            for _, answered in host.service.forwarded[began:]:
                answered(Kind.ERROR, late)
    assert len(host.service.forwarded) == len(host.service.owed) == limits.MAX_OPEN_OF_USER
    other = host.connect(BOB)
    other.send(use(1))
    assert len(host.service.forwarded) == limits.MAX_OPEN_OF_USER + 1, "another user has its places"
    for settled in host.service.owed:
        settled(Kind.ERROR, late)
    assert host.sessions.open_requests == 1
    host.loop.now += 1.0
    host.loop.turn()
    host.connect(ALICE).send(use(1))
    assert len(host.service.forwarded) == limits.MAX_OPEN_OF_USER + 2


def test_a_user_that_left_is_forgotten_when_the_daemon_has_answered(host: Host) -> None:
    host.service.owes = True
    peer = host.connect(ALICE)
    peer.send(use(1))
    peer.session.connection_lost(None)
    assert (len(host.sessions), list(host.sessions._users)) == (0, [ALICE])
    host.service.owed[0](Kind.RESULT, b"")
    assert not host.sessions._users


@pytest.mark.parametrize("late", [False, True], ids=["in time", "given up before"])
def test_a_user_pays_for_operations_that_the_daemon_refuses(host: Host, late: bool) -> None:
    """The daemon's account is one for all users: refusals of one must not use it up for the others."""
    host.service.owes = late
    peer, other = host.connect(ALICE), host.connect(BOB)
    refused = encode_error(1, Refused())[13:]
    sent = 0
    for _ in range(1_000):
        host.loop.turn()
        if not peer.transport.reads:
            break
        peer.send(use(1) + encode(Kind.CANCEL, 1) * late)
        if host.service.forwarded:
            _, answered = host.service.forwarded.pop()
            (host.service.owed.pop() if late else answered)(Kind.ERROR, refused)
            sent += 1
    assert 0 < sent <= TARIFF.burst / limits.REFUSED_BY_DAEMON + 1
    other.send(use(1))
    assert len(host.service.forwarded) == 1


def test_what_the_daemon_takes_at_a_time_is_learned_again(host: Host) -> None:
    for _ in range(100):
        host.sessions.overloaded()
    user = host.sessions.admit(ALICE)
    assert user is not None
    host.sessions.count(user, limits.LEAST_WINDOW)
    assert not host.sessions.may_open(user)
    for _ in range(100):
        host.sessions.served()
    assert host.sessions.may_open(user)


@pytest.mark.parametrize("makes_operations", [False, True])
def test_connections_without_an_operation_are_paid_for(host: Host, makes_operations: bool) -> None:
    """TLS servers may open one for each handshake; what opens them for nothing is not served for a while."""
    watched = host.connect(ALICE)
    for _ in range(int(TARIFF.burst / limits.UNUSED_CONNECTION) + 1):
        peer = host.connect(ALICE)
        if makes_operations:
            peer.send(use(1))
            host.service.forwarded.pop()[1](Kind.RESULT, b"signature")
        peer.session.connection_lost(None)
        host.loop.turn()
    watched.send(encode(Kind.PING, 1))
    assert watched.transport.reads is makes_operations


# --- operations that wait in the agent ---


def answers(peer: Peer) -> list[tuple[int, int]]:
    """(kind, request id) of each answer."""
    return [
        (kind, number) for kind, number, _ in FrameDecoder(MAX_ANSWER_LENGTH).feed(peer.transport.written)
    ]


FEW = limits.AT_DAEMON_BESIDE_OTHERS
MANY = FEW + 14


@pytest.fixture
def shared(host: Host) -> tuple[Host, Peer, Peer]:
    """Two users that both make operations; the first has MANY open, which the daemon has not answered."""
    busy, other = host.connect(ALICE), host.connect(BOB)
    for peer in (other, busy):
        peer.send(use(1))
        host.service.forwarded.pop()[1](Kind.RESULT, b"signature")
        peer.transport.written = b""
    busy.send(b"".join(use(number) for number in range(101, 101 + MANY)))
    host.loop.turn()
    return host, busy, other


Shared = tuple[Host, Peer, Peer]


def test_a_user_that_shares_a_daemon_has_few_operations_there(shared: Shared) -> None:
    host, busy, other = shared
    assert (len(host.service.forwarded), host.sessions.open_requests) == (FEW, MANY)
    busy.send(encode(Kind.PING, 1))
    assert answers(busy) == [(Kind.PONG, 1)], "what touches no key does not wait"
    other.send(use(2))
    assert len(host.service.forwarded) == FEW + 1, "another user does not wait for them"


def test_what_waits_goes_in_its_order_and_with_the_time_that_is_left(shared: Shared) -> None:
    host, busy, _ = shared
    host.loop.now += 0.3
    for sent in range(MANY):
        body, answered = host.service.forwarded[sent]
        left_ms, *_ = decode_key_operation_head(body)
        assert left_ms == (5_000 if sent < FEW else 4_700)
        answered(Kind.RESULT, b"signature")
    assert len(host.service.forwarded) == MANY
    assert answers(busy) == [(Kind.RESULT, 101 + number) for number in range(MANY)]
    assert not host.sessions.open_requests


def test_a_user_alone_has_all_its_operations_at_the_daemon(shared: Shared) -> None:
    host, busy, _ = shared
    host.loop.now += limits.BESIDE_OTHERS_S
    host.service.forwarded[0][1](Kind.RESULT, b"signature")
    assert len(host.service.forwarded) == MANY, "the other user has made none for a while"
    busy.send(b"".join(use(number) for number in range(201, 211)))
    assert len(host.service.forwarded) == MANY + 10


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_what_is_given_up_while_it_waits_never_reaches_a_daemon(shared: Shared, end: str) -> None:
    host, busy, _ = shared
    if end == "cancel":
        busy.send(b"".join(encode(Kind.CANCEL, 101 + number) for number in range(FEW, MANY)))
    else:
        busy.session.connection_lost(None)
    for _, answered in host.service.forwarded if end == "cancel" else []:
        answered(Kind.RESULT, b"signature")
    assert (len(host.service.forwarded), host.sessions.open_requests) == (FEW, 0)


def test_what_is_given_up_while_it_waits_costs_what_a_refusal_does(shared: Shared) -> None:
    """No daemon bounds how many there are."""
    host, busy, _ = shared
    given_up = 0
    while busy.transport.reads and given_up < 10_000:
        busy.send(use(7) + encode(Kind.CANCEL, 7))
        given_up += 1
        host.loop.turn()
    assert given_up <= TARIFF.burst / TARIFF.refusal


def test_what_waits_too_long_is_answered_so(shared: Shared) -> None:
    host, busy, _ = shared
    host.loop.now += 5.0
    host.sessions.check()
    late = [(Kind.ERROR, 101 + number) for number in range(FEW, MANY)]
    assert sorted(answers(busy)) == late
    assert (len(host.service.forwarded), host.sessions.open_requests) == (FEW, FEW)


def test_when_the_daemon_is_gone_all_that_waits_fails(shared: Shared) -> None:
    """Each failure makes room for the next one, which fails as well."""
    host, busy, _ = shared
    for peer in (busy, *(host.connect(ALICE) for _ in range(3))):
        peer.send(b"".join(use(number) for number in range(301, 331)))
        host.loop.turn()
        host.loop.turn()
    waiting = host.sessions.open_requests - FEW
    assert waiting > 100
    host.service.full = True
    host.service.forwarded[0][1](Kind.ERROR, encode_error(1, Unavailable())[13:])
    assert host.sessions.open_requests == FEW - 1

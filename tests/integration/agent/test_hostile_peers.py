"""Hostile local users: what they hold is limited, and other users are not affected."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from hsmd.agent import session, sessions
from hsmd.errors import ErrorCode
from hsmd.protocol.frames import (
    Capability,
    Frame,
    Kind,
    decode_error,
    encode,
    encode_control_request,
    encode_hello,
)
from hsmd.system.control_requests import MAX_CONTROL_REQUESTS
from tests.support.agent_site import AgentSite
from tests.support.polling import eventually


def code(frame: Frame) -> int:
    assert frame[0] == Kind.ERROR
    return int(decode_error(frame[2]).code)


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's time limits, shortened to tenths of seconds."""
    monkeypatch.setattr("hsmd.agent.agent.CHECK_S", 0.02)
    monkeypatch.setattr(session, "HALF_FRAME_S", 0.2)
    monkeypatch.setattr(session, "UNREAD_S", 0.2)
    monkeypatch.setattr(session, "IDLE_S", 0.4)


async def others_are_served(agent_site: AgentSite) -> None:
    agent_site.daemon.faults.answer = lambda operation: b"signed " + operation.data
    assert await agent_site.sign() == b"signed data"


# --- broken frames ---


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x00\x01\x00\x01",
        encode(Kind.PING, 1),
        encode(Kind.HELLO, 0, b"HSMD\x01\x01"),
        encode(Kind.HELLO, 0, b"HSMX\x01\x01\0\0\0\0"),
        encode_hello(0) + encode_hello(0),
        encode_hello(0) + encode(Kind.RESULT, 1),
        encode_hello(0) + encode(Kind.PING, 0),
        encode_hello(0) + encode(Kind.PING, 1, b"x"),
        encode_hello(0) + encode(Kind.CANCEL, 1, b"x"),
        encode_hello(0) + encode(0x7F, 1),
        encode_hello(0) + encode(Kind.KEY_OPERATION, 1, b"short"),
        encode_hello(0) + encode(Kind.KEY_OPERATION, 1, bytes(39)),
        encode_hello(0) + encode(Kind.KEY_OPERATION, 1, b"\xff\xff\xff\xff" + bytes(35)),
        encode_hello(0) + encode(Kind.CONTROL_REQUEST, 1, b"ab"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_a_client_that_breaks_the_rules_gets_an_error_and_is_dropped(
    agent_site: AgentSite, data: bytes
) -> None:
    await agent_site.start()
    peer = await agent_site.peer(hello=False)
    peer.send(data)
    frames = await peer.ended()
    assert code(frames[-1]) == ErrorCode.PROTOCOL
    assert frames[-1][1] == 0
    await peer.close()
    await others_are_served(agent_site)


async def test_no_common_version(agent_site: AgentSite) -> None:
    await agent_site.start()
    peer = await agent_site.peer(hello=False)
    peer.send(encode(Kind.HELLO, 0, b"HSMD\x02\x09\0\0\0\0"))
    assert [code(frame) for frame in await peer.ended()] == [ErrorCode.VERSION]
    await peer.close()


async def test_the_id_of_an_open_request_cannot_be_used_again(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    peer.use(1, agent_site.key.digest)
    peer.use(1, agent_site.key.digest)
    assert [code(frame) for frame in await peer.ended()] == [ErrorCode.PROTOCOL]
    await peer.close()
    await eventually(lambda: len(agent_site.daemon.cancelled) == 1)


@pytest.mark.parametrize(
    "document", [b"", b"{", b'{"op":"whoami","extra":1}', b'{"op":"no.such"}', b"[" * 5000, b"\xff"]
)
async def test_invalid_control_requests_are_refused(agent_site: AgentSite, document: bytes) -> None:
    await agent_site.start()
    peer = await agent_site.peer()
    peer.send(encode_control_request(1, 1000, document))
    assert code(await peer.frame()) == ErrorCode.BAD_REQUEST
    await peer.close()


# --- holding resources ---


async def test_half_a_frame_is_not_held_for_long(agent_site: AgentSite, short_limits: None) -> None:
    await agent_site.start()
    for data in (b"", b"\x00", encode_hello(0)[:-1]):
        peer = await agent_site.peer(hello=False)
        peer.send(data)
        began = time.monotonic()
        assert [code(frame) for frame in await peer.ended()] == [ErrorCode.PROTOCOL]
        assert time.monotonic() - began < 1
        await peer.close()
    peer = await agent_site.peer()
    peer.send(b"\x00\x00\x00\x20\x10")
    assert [code(frame) for frame in await peer.ended()] == [ErrorCode.PROTOCOL]
    await peer.close()
    await others_are_served(agent_site)


async def test_idle_connections_are_closed_and_pings_keep_them(
    agent_site: AgentSite, short_limits: None
) -> None:
    await agent_site.start()
    idle, busy = await agent_site.peer(), await agent_site.peer()
    ended = asyncio.create_task(idle.ended())
    for number in range(1, 100):
        busy.send(encode(Kind.PING, number))
        assert (await busy.frame())[:2] == (Kind.PONG, number)
        if ended.done():
            break
        await asyncio.sleep(0.01)
    assert await ended == []
    busy.send(encode(Kind.PING, 500))
    assert (await busy.frame())[:2] == (Kind.PONG, 500)
    await idle.close()
    await busy.close()


async def test_waiting_for_an_answer_is_not_idle(agent_site: AgentSite, short_limits: None) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    peer.use(1, agent_site.key.digest, deadline_ms=5000)
    await eventually(lambda: agent_site.daemon.operations)
    await asyncio.sleep(0.6)
    agent_site.daemon.release()
    assert (await peer.frame())[:2] == (Kind.RESULT, 1)
    await peer.close()


async def test_a_peer_that_never_reads_is_dropped(agent_site: AgentSite, short_limits: None) -> None:
    agent = await agent_site.start()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    sock.connect(str(agent_site.socket))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, encode_hello(0))
    pings = b"".join(encode(Kind.PING, number) for number in range(1, 5000))
    sent, ends = 0, time.monotonic() + 5
    try:
        while time.monotonic() < ends:
            try:
                sent += sock.send(pings)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            held = [one._transport.get_write_buffer_size() for one in agent._sessions._all]
            assert sum(held) < 2 << 20
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        sock.close()
    assert time.monotonic() < ends, "the peer was not dropped"
    await eventually(lambda: len(agent._sessions) == 0)
    await others_are_served(agent_site)


async def test_a_flood_of_tiny_frames_does_not_delay_others_much(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.answer = lambda operation: b"signed " + operation.data
    flooding = asyncio.create_task(asyncio.to_thread(flood, str(agent_site.socket), 100_000))
    waits = []
    while not flooding.done():
        began = time.monotonic()
        assert await agent_site.sign() == b"signed data"
        waits.append(time.monotonic() - began)
    assert await flooding == 100_000 * len(encode(Kind.PONG, 1))
    assert max(waits) < 1.0


def flood(path: str, count: int) -> int:
    """Send pings and read the answers; return the number of bytes received."""
    received = 0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(encode_hello(0))
        sock.recv(1 << 10)
        sender = threading.Thread(target=sock.sendall, args=(encode(Kind.PING, 1) * count,))
        sender.start()
        while received < count * len(encode(Kind.PONG, 1)):
            received += len(sock.recv(1 << 20))
        sender.join()
    return received


# --- too many requests ---


async def test_open_requests_of_one_connection_are_limited(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    for number in range(1, session.MAX_OPEN_REQUESTS + 2):
        peer.use(number, agent_site.key.digest)
    frame = await peer.frame()
    assert (code(frame), frame[1]) == (ErrorCode.OVERLOADED, session.MAX_OPEN_REQUESTS + 1)
    assert decode_error(frame[2]).retry_after_ms > 0
    await peer.close()
    await eventually(lambda: len(agent_site.daemon.cancelled) == session.MAX_OPEN_REQUESTS)


async def test_open_requests_of_one_user_are_limited(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_OPEN_OF_USER", 10)
    agent = await agent_site.start()
    agent_site.daemon.faults.hold = True
    first, second = await agent_site.peer(), await agent_site.peer()
    for number in range(1, 11):
        first.use(number, agent_site.key.digest)
    await eventually(lambda: len(agent_site.daemon.operations) == 10)
    second.use(1, agent_site.key.digest)
    assert code(await second.frame()) == ErrorCode.OVERLOADED
    await first.close()
    await eventually(lambda: not agent._sessions.open_requests)
    second.use(2, agent_site.key.digest)
    await eventually(lambda: len(agent_site.daemon.operations) == 11)
    await second.close()


async def test_connections_of_one_user_are_limited(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_CONNECTIONS_OF_USER", 3)
    agent = await agent_site.start()
    peers = [await agent_site.peer() for _ in range(3)]
    rejected = await agent_site.peer(hello=False)
    assert [code(frame) for frame in await rejected.ended()] == [ErrorCode.OVERLOADED]
    await rejected.close()
    await peers.pop().close()
    await eventually(lambda: len(agent._sessions) == 2)
    await others_are_served(agent_site)
    for peer in peers:
        await peer.close()


async def test_concurrent_control_requests_are_limited(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await agent_site.start()
    held = asyncio.Event()

    async def hold(*_: object) -> None:
        await held.wait()

    monkeypatch.setattr(agent._service, "control", hold)
    peer = await agent_site.peer()
    for number in range(1, MAX_CONTROL_REQUESTS + 2):
        peer.send(encode_control_request(number, 300, b'{"op":"whoami"}'))
    assert code(await peer.frame()) == ErrorCode.OVERLOADED
    assert code(await peer.frame()) == ErrorCode.DEADLINE
    await peer.close()


# --- disconnecting ---


async def test_requests_of_a_disconnected_peer_are_cancelled(agent_site: AgentSite) -> None:
    agent = await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    for number in range(1, 6):
        peer.use(number, agent_site.key.digest, deadline_ms=30_000)
    await eventually(lambda: len(agent_site.daemon.operations) == 5)
    await peer.close()
    await eventually(lambda: len(agent_site.daemon.cancelled) == 5)
    assert not agent._sessions.open_requests
    await eventually(lambda: len(agent._sessions) == 0)


async def test_cancel_is_answered_at_once_and_forwarded(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    peer.use(1, agent_site.key.digest)
    await eventually(lambda: agent_site.daemon.operations)
    peer.send(encode(Kind.CANCEL, 1) + encode(Kind.CANCEL, 2))
    assert code(await peer.frame()) == ErrorCode.DEADLINE
    await eventually(lambda: len(agent_site.daemon.cancelled) == 1)
    peer.use(1, agent_site.key.digest)
    await eventually(lambda: len(agent_site.daemon.operations) == 2)
    await peer.close()


async def test_closing_at_any_moment_does_no_harm(agent_site: AgentSite) -> None:
    agent = await agent_site.start()
    agent_site.daemon.faults.answer = lambda operation: b"signed " + operation.data
    whole = encode_hello(Capability.CONTROL) + encode_control_request(2, 1000, b'{"op":"whoami"}')
    for cut in range(0, len(whole), 3):
        peer = await agent_site.peer(hello=False)
        peer.send(whole[:cut])
        await asyncio.sleep(0 if cut % 2 else 0.001)
        await peer.close()
    for turns in range(12):
        peer = await agent_site.peer()
        peer.use(1, agent_site.key.digest)
        for _ in range(turns):
            await asyncio.sleep(0)
        await peer.close()
    await eventually(lambda: len(agent._sessions) == 0)
    assert not agent._sessions.open_requests
    assert await agent_site.sign() == b"signed data"

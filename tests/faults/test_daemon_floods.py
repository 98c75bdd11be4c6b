"""Peers that send too much or too little, or never read: the front's memory stays bounded, and other clients are served."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.errors import ErrorCode
from hsmd.protocol.frames import Kind, encode, encode_hello
from tests.support.daemon import MAIL, WEB, Daemon, running_daemon
from tests.support.load import Load
from tests.support.polling import eventually
from tests.support.ssh_peer import Wire, operation, ssh, wire

pytestmark = pytest.mark.timeout(120)
TINY_FRAMES = int(os.environ.get("HSMD_TEST_TINY_FRAMES", "100000"))
"""The suite sends a tenth of the 10^6 of a soak."""
MAX_GROWTH = 64 << 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(
        tmp_path_factory.mktemp("floods") / "daemon", workers=2, limits={"login_s": 3}
    ) as made:
        made.keys_made = {  # type: ignore[attr-defined]
            client: made.add_key(f"key-{client}", grant_to=(client,)) for client in (WEB, MAIL)
        }
        yield made


@asynccontextmanager
async def watched(built: Daemon) -> AsyncIterator[Load]:
    """Another client works meanwhile without a failure, and the front's memory does not grow beyond a bound."""
    before = built.front_rss()
    async with Load(built, MAIL, built.keys_made[MAIL], parallel=4, timeout_s=5) as other:  # type: ignore[attr-defined]
        await other.more(20)
        yield other
        await other.more(50)
        growth = built.front_rss() - before
    assert not other.failures, other.failures[:3]
    assert max(done.took_s for done in other.done) < 1.0 + other.lag_s
    assert growth < MAX_GROWTH, f"{growth >> 20} MiB"


async def raw_wire(built: Daemon) -> tuple[asyncssh.SSHClientConnection, Wire]:
    connection = await ssh(built, WEB)
    return connection, await wire(connection)


@pytest.mark.parametrize("length", [0, 8, 65_537, 2**31, 2**32 - 1])
async def test_a_length_out_of_range_ends_the_channel_before_data_is_buffered(
    built: Daemon, length: int
) -> None:
    async with watched(built):
        connection, channel = await raw_wire(built)
        channel.write(length.to_bytes(4, "big"))
        assert (await channel.error(0)).code == ErrorCode.PROTOCOL
        await channel.closed.wait()
        connection.abort()


async def test_half_frames_and_closed_windows_time_out(built: Daemon) -> None:
    """Both cases run concurrently, because each has a limit of ten seconds."""
    async with watched(built):
        await asyncio.gather(_hold_half_frames(built), _keep_window_closed(built))


async def _hold_half_frames(built: Daemon) -> None:
    """Open as many channels as a client may have: one without hello, the others with a frame of maximum size less its last byte."""
    connection = await ssh(built, WEB)
    channels = [await wire(connection, hello=number != 0) for number in range(4)]
    for channel in channels[1:]:
        channel.write((65_536).to_bytes(4, "big") + b"\x10" + b"\0" * 65_534)
    for channel in channels:
        assert (await asyncio.wait_for(channel.answer(0, 15), 15))[0] == Kind.ERROR
        await channel.closed.wait()
    connection.abort()


async def _keep_window_closed(built: Daemon) -> None:
    """Read TCP, but leave the channel's window at one byte."""
    lost = len(built.logged("session.unread"))
    connection = await ssh(built, WEB)
    channel = await wire(connection, window=1, max_pktsize=1)
    channel.channel.pause_reading()  # asyncssh then grants no window
    block = b"".join(encode(Kind.PING, number) for number in range(1, 2_000))
    for _ in range(100):
        channel.write(block)
        await asyncio.sleep(0)
    await eventually(lambda: len(built.logged("session.unread")) > lost, 20)
    connection.abort()


async def test_a_flood_of_tiny_frames(built: Daemon) -> None:
    async with watched(built):
        connection, channel = await raw_wire(built)
        block = b"".join(encode(Kind.PING, number) for number in range(1, 1_001))
        for round_ in range(TINY_FRAMES // 1_000):
            channel.write(block)
            if round_ % 10 == 9:
                channel.write(encode(Kind.PING, 10_000 + round_))
                await channel.answer(10_000 + round_, 60)
                channel.frames.clear()
                channel.raw.clear()
        connection.abort()


async def test_a_flood_of_cancels_errors_and_unknown_keys(built: Daemon) -> None:
    async with watched(built):
        connection, channel = await raw_wire(built)
        block = b"".join(
            operation(number, b"\7" * 32) + encode(Kind.CANCEL, number) + encode(0xEE, number, b"x" * 50)
            for number in range(1, 301)
        )
        for _ in range(30):
            channel.write(block + encode(Kind.PING, 9_999))
            await channel.answer(9_999, 30)
            channel.frames.clear()
            channel.raw.clear()
        connection.abort()


# --- peers that do not read ---


class NonReader:
    """A client that keeps sending but stops reading from its TCP socket."""

    def __init__(self, connection: Any) -> None:
        self._transport = connection._transport
        self._transport.pause_reading()
        # The daemon answers a flood slowly; so little of it fits into the buffers of the kernel.
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)

    async def send(self, channel: Wire, data: bytes, times: int) -> int:
        """Return how many pieces the daemon read before it stopped reading (or disconnected)."""
        for number in range(times):
            try:
                channel.write(data)
            except OSError:
                return number
            async with asyncio.timeout(60):
                while self._transport.get_write_buffer_size() > 1 << 20 and not self._transport.is_closing():
                    await asyncio.sleep(0.005)
            if self._transport.is_closing():
                return number
        return times


async def test_a_peer_that_never_reads_is_dropped(built: Daemon) -> None:
    """It requests far more answers than any buffer holds."""
    lost = len(built.logged("connection.closed"))
    async with watched(built):
        connection, channel = await raw_wire(built)
        deaf = NonReader(connection)
        key = built.keys_made[WEB]  # type: ignore[attr-defined]
        block = b"".join(encode(Kind.PING, number) for number in range(1, 2_000)) + operation(1, key)
        sending = asyncio.create_task(deaf.send(channel, block, 4_000))
        await eventually(lambda: len(built.logged("connection.closed")) > lost, 60)
        connection.abort()
        sending.cancel()


async def test_many_peers_that_never_read(built: Daemon) -> None:
    async with watched(built):
        connections = [await ssh(built, WEB) for _ in range(8)]
        tasks = []
        for connection in connections:
            channel = await wire(connection)
            block = b"".join(encode(Kind.PING, number) for number in range(1, 2_000))
            tasks.append(asyncio.create_task(NonReader(connection).send(channel, block, 1_000)))
        await asyncio.sleep(2.0)  # within their time limit: the test measures memory
        for connection, task in zip(connections, tasks, strict=True):
            connection.abort()
            task.cancel()


async def test_requests_of_ssh_itself_are_bounded(built: Daemon) -> None:
    """Channel and global requests with want-reply, from a peer that reads no reply."""
    async with watched(built):
        connection, _ = await raw_wire(built)
        deaf = NonReader(connection)
        for number in range(100_000):
            connection.send_packet(80, b"\0\0\0\x09nothing@x\x01")  # SSH_MSG_GLOBAL_REQUEST
            if number % 100 == 0:
                await asyncio.sleep(0)
                if deaf._transport.is_closing():
                    break
        await asyncio.sleep(1.0)
        connection.abort()


async def test_bytes_that_are_not_ssh(built: Daemon) -> None:
    async with watched(built):
        host, port = built.address
        for sent in (
            b"\0" * 100_000,
            b"SSH-2.0-x\r\n" + b"\xff" * 100_000,
            b"A" * 1_000_000,
            encode_hello(3),
        ):
            with socket.create_connection((host, port)) as peer:
                peer.settimeout(15)
                try:
                    peer.sendall(sent)
                    while await asyncio.to_thread(peer.recv, 65_536):
                        pass
                except OSError:
                    pass


def test_the_log_of_a_flood_stays_short(built: Daemon, tmp_path: Path) -> None:
    """Runs after the tests above: no peer could make the log or the audit log grow without bound."""
    assert built.log_path.stat().st_size < 2 << 20
    assert len(built.audit("refusal")) < 1_500

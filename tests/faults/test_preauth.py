"""Load by unauthenticated peers, and by clients with many logins, key exchanges and channels."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, encode
from tests.support.daemon import MAIL, WEB, Daemon, running_daemon
from tests.support.load import Load
from tests.support.polling import eventually
from tests.support.ssh_peer import SshPeer, certificate, ssh, wire

pytestmark = pytest.mark.timeout(120)
IDLE = int(os.environ.get("HSMD_TEST_IDLE_CONNECTIONS", "600"))
"""Attack A6 opens 5,000; the suite fewer."""
CHANNELS = 3_000
STARTUPS, LOGIN_S = 16, 2
MAX_GROWTH = 64 << 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    limits = {"startups": STARTUPS, "login_s": LOGIN_S, "connections": 64}
    with running_daemon(tmp_path_factory.mktemp("preauth") / "daemon", limits=limits) as made:
        yield made


@asynccontextmanager
async def undisturbed(built: Daemon) -> AsyncIterator[None]:
    """A logged-in client works meanwhile without a failure, and the front's memory does not grow beyond a bound."""
    key = built.add_key(f"key-{time.monotonic_ns()}", grant_to=(MAIL,))
    before = built.front_rss()
    async with Load(built, MAIL, key, parallel=2, timeout_s=5) as other:
        await other.more(20)
        yield
        await other.more(20)
        growth = built.front_rss() - before
    assert not other.failures, other.failures[:3]
    assert growth < MAX_GROWTH, f"{growth >> 20} MiB"


def open_files(built: Daemon) -> int:
    return len(os.listdir(f"/proc/{built.front_pid}/fd"))


async def closed_within(reader: asyncio.StreamReader, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        with contextlib.suppress(OSError):
            while await reader.read(65_536):
                pass


async def test_idle_connections_cost_neither_files_nor_memory(built: Daemon) -> None:
    files = open_files(built)
    async with undisturbed(built):
        host, port = built.address
        idle = []
        for _ in range(IDLE):
            with contextlib.suppress(OSError):
                idle.append(await asyncio.open_connection(host, port))
        wait = time.monotonic() + 10
        while open_files(built) > files + STARTUPS + 8 and time.monotonic() < wait:
            await asyncio.sleep(0.05)
        assert open_files(built) <= files + STARTUPS + 8
        await asyncio.gather(*[closed_within(reader, LOGIN_S + 10) for reader, _ in idle])
        for _, writer in idle:
            writer.close()
    async with await ssh(built, WEB):
        pass


@pytest.mark.parametrize("sends", ["banner", "key exchange"])
async def test_slow_peers_are_disconnected_after_login_s(built: Daemon, sends: str) -> None:
    """A peer sends single bytes without end, of the version line or the first key exchange packet (RFC 4253, 4.2 and 7.1)."""
    async with undisturbed(built):
        reader, writer = await asyncio.open_connection(*built.address)
        if sends == "key exchange":
            writer.write(b"SSH-2.0-slow\r\n\0\0\x05\xdc\x06\x14")
        began = time.monotonic()
        reading = asyncio.create_task(closed_within(reader, LOGIN_S + 10))
        while not reading.done():
            with contextlib.suppress(OSError):
                writer.write(b"S")
            await asyncio.wait([reading], timeout=0.1)
        await reading
        assert LOGIN_S - 0.5 < time.monotonic() - began < LOGIN_S + 8
        writer.close()


async def test_long_names_and_many_principals_are_only_refused(built: Daemon) -> None:
    ca, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    built.ask(messages.ClientAdd("many"))
    built.ask(messages.ClientTrustCa(ca.export_public_key("openssh").decode().strip(), ["many"]))
    async with undisturbed(built):
        with pytest.raises((asyncssh.Error, OSError)):
            await ssh(built, "x" * 20_000, key)
        shown = certificate(ca, key, ["many", *[f"name-{number}" for number in range(1_500)]])
        peer = await SshPeer.connect(built)
        peer.sign("many", key, shown=shown)
        with contextlib.suppress(Exception):
            assert await peer.reply() != 52, "SSH_MSG_USERAUTH_SUCCESS"
        assert await peer.whoami() is None
        peer.close()


async def test_thousands_of_channels_are_refused(built: Daemon) -> None:
    async with undisturbed(built), await ssh(built, WEB) as connection:
        held = [await wire(connection) for _ in range(4)]
        for _ in range(CHANNELS // 100):
            more = await asyncio.gather(*[wire(connection) for _ in range(100)], return_exceptions=True)
            assert all(isinstance(each, asyncssh.ChannelOpenError) for each in more)
        assert len(held) == 4


async def test_a_peer_that_keeps_exchanging_keys_is_dropped(built: Daemon) -> None:
    dropped = len(built.logged("connection.dropped"))
    async with undisturbed(built):
        connection = await ssh(built, WEB, rekey_bytes=2_000)
        channel = await wire(connection)
        with contextlib.suppress(OSError):
            for number in range(1, 2_000):
                if connection.is_closed():
                    break
                channel.write(encode(Kind.PING, number))
                await asyncio.sleep(0.005)
        await eventually(lambda: len(built.logged("connection.dropped")) > dropped, 10)
        assert built.logged("connection.dropped")[-1]["reason"] == "too many key exchanges"
        connection.abort()


def test_unauthenticated_peers_write_little_to_the_log(built: Daemon) -> None:
    """Runs after the tests above: refused connections were counted, not logged one by one."""
    assert built.log_path.stat().st_size < 1 << 20
    assert len(built.logged("connection.turned_away")) < 120


# --- penalties ---


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that penalises loopback addresses too, which are exempt by default."""
    with running_daemon(tmp_path / "daemon", limits={"penalty_exempt": []}) as made:
        yield made


async def test_a_source_that_keeps_failing_is_refused_for_a_while(strict: Daemon) -> None:
    """From a separate address, because the usual one is already known from successful logins."""
    unknown, source = asyncssh.generate_private_key("ssh-ed25519"), ("127.0.0.2", 0)
    for _ in range(4):
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(strict, WEB, unknown, local_addr=source)
    await eventually(lambda: bool(strict.logged("source.penalised")), 10)
    with socket.create_connection(strict.address, 5, source_address=source) as refused:
        refused.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert b"SSH-" not in refused.recv(100)
    async with await ssh(strict, WEB):
        pass
    # The penalty expires, and a successful login makes the address known.
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, asyncssh.Error):
                (await ssh(strict, WEB, local_addr=source)).abort()
                break
            await asyncio.sleep(0.5)
    for _ in range(6):
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(strict, WEB, unknown, local_addr=source)
    async with await ssh(strict, WEB, local_addr=source):
        pass

"""What both ends offer in a key exchange, read from the wire: the lists of their KEXINIT packets (RFC 4253, section 7.1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hsmd.client import Connection
from hsmd.client.enrolment import enrol
from hsmd.errors import HsmdError
from hsmd.protocol.enrolment import EnrolmentToken
from tests.support.daemon import WEB, Daemon, public_line

pytestmark = pytest.mark.timeout(30)
KEXINIT = 20
LISTS = (
    "key exchange", "host key", "cipher in", "cipher out", "MAC in", "MAC out", "compression in",
    "compression out", "language in", "language out",
)  # fmt: skip
CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
MACS = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]
OFFERED = {
    "cipher in": CIPHERS, "cipher out": CIPHERS, "MAC in": MACS, "MAC out": MACS,
    "compression in": ["none"], "compression out": ["none"], "language in": [], "language out": [],
}  # fmt: skip
"""Both ends offer the same; key exchange and host key differ."""
EXCHANGES = ["mlkem768x25519-sha256", "curve25519-sha256"]


async def offer_read_from(reader: asyncio.StreamReader) -> dict[str, list[str]]:
    """The lists of the KEXINIT that follows a version line."""
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"SSH-2.0-")
        packet = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
    assert packet[1] == KEXINIT
    rest, found = packet[2 + 16 :], {}
    for name in LISTS:
        length = int.from_bytes(rest[:4])
        names, rest = rest[4 : 4 + length].decode(), rest[4 + length :]
        found[name] = names.split(",") if names else []
    return found


async def test_the_daemon_offers_nothing_but_the_profile(shared_daemon: Daemon) -> None:
    reader, writer = await asyncio.open_connection(*shared_daemon.address)
    writer.write(b"SSH-2.0-test\r\n")
    offered = await offer_read_from(reader)
    writer.close()
    assert offered == {
        **OFFERED,
        "key exchange": [*EXCHANGES, "ext-info-s", "kex-strict-s-v00@openssh.com"],
        "host key": ["ssh-ed25519"],
    }


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, asyncio.Queue[dict[str, list[str]]]]]:
    """(port, the offers of peers that connect to it)."""
    offers: asyncio.Queue[dict[str, list[str]]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            offers.put_nowait(await offer_read_from(reader))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], offers


async def log_in(daemon: Daemon, port: int) -> None:
    await Connection(replace(daemon.endpoint(WEB), host="127.0.0.1", port=port)).start()


async def use_token(daemon: Daemon, port: int) -> None:
    token = EnrolmentToken(b"i" * 8, b"s" * 16, b"p" * 32, False, f"127.0.0.1:{port}")
    await enrol(token, public_line(daemon.keys[WEB]))


@pytest.mark.parametrize(
    ("connect", "host_keys"),
    [
        (log_in, ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"]),
        (use_token, ["ssh-ed25519"]),
    ],
    ids=["login", "enrolment"],
)
async def test_clients_offer_nothing_but_the_profile(
    shared_daemon: Daemon, connect: Callable[[Daemon, int], Awaitable[None]], host_keys: list[str]
) -> None:
    async with listening() as (port, offers):
        with pytest.raises(HsmdError):
            await connect(shared_daemon, port)
        offered = await asyncio.wait_for(offers.get(), 10)
    assert offered == {
        **OFFERED,
        "key exchange": [*EXCHANGES, "ext-info-c", "kex-strict-c-v00@openssh.com"],
        "host key": host_keys,
    }

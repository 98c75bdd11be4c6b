"""Floods of one client with a login, in a separate process: frames that use no key, packets of SSH itself, half frames.

    python flood_kinds.py KIND[,KIND...] HOST PORT IDENTITY USER CONNECTIONS

Several kinds are sent at once, on so many connections each. Prints `ready` when all connections have sent something, and then, once a second, how many pieces it has sent. It connects
again whenever the daemon disconnects it. `KINDS` names what there is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncssh
from asyncssh.packet import Boolean, String, UInt32

from hsmd.protocol import messages
from hsmd.protocol.frames import (
    Capability,
    Kind,
    encode,
    encode_control_request,
    encode_hello,
    encode_key_operation,
)
from hsmd.system.ssh_profile import CIPHERS, KEX_ALGORITHMS, SUBSYSTEM

DATA = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
FULL = 256 << 10
"""No more is sent while so many bytes have not left this process."""
AHEAD_S = 0.001


class Peer:
    """One connection of the flood, with the number of the next request."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection: Any = connection
        self.channels: list[Any] = []
        self.number = 0

    async def open(self, hello: bytes = encode_hello(Capability.CONTROL | Capability.EVENTS)) -> Any:
        channel, _ = await self.connection.create_session(_Sink, subsystem=SUBSYSTEM, encoding=None)
        channel.write(hello)
        self.channels.append(channel)
        return channel

    async def room(self) -> None:
        """Wait until what was sent has left this process."""
        while True:
            if self.connection._transport is None or self.connection._transport.is_closing():
                raise ConnectionResetError
            waiting = self.connection._transport.get_write_buffer_size()
            waiting += sum(channel.get_write_buffer_size() for channel in self.channels)
            if waiting < FULL:
                return
            await asyncio.sleep(AHEAD_S)

    def numbers(self, count: int) -> range:
        self.number += count
        return range(self.number - count + 1, self.number + 1)


class _Sink(asyncssh.SSHClientSession[bytes]):
    """Reads answers and forgets them."""


Step = Callable[[Peer], Awaitable[int]]
"""Send a piece of the flood; return how many requests, packets or connections it was."""


def frames(make: Callable[[int], bytes], count: int, channels: int = 1) -> Step:
    """Frames on some channels, `count` in each piece."""

    async def step(peer: Peer) -> int:
        while len(peer.channels) < channels:
            await peer.open()
        for channel in peer.channels:
            channel.write(b"".join(make(number) for number in peer.numbers(count)))
        return count * channels

    return step


def packets(kind: int, *payload: bytes, count: int = 200) -> Step:
    """Packets of SSH itself."""

    async def step(peer: Peer) -> int:
        for _ in range(count):
            peer.connection.send_packet(kind, *payload)
        return count

    return step


def channel_packets(kind: int, *payload: bytes, count: int = 200) -> Step:
    async def step(peer: Peer) -> int:
        channel = peer.channels[0] if peer.channels else await peer.open()
        for _ in range(count):
            channel.send_packet(kind, *payload)
        return count

    return step


def control(request: messages.Request) -> Callable[[int], bytes]:
    document = messages.encode_request(request)
    return lambda number: encode_control_request(number, 10_000, document)


async def reopen(peer: Peer) -> int:
    """Open a channel and close it again."""
    channel = await peer.open()
    peer.channels.remove(channel)
    channel.close()
    return 1


async def duplicates(peer: Peer) -> int:
    """An id that is open already, which ends the channel."""
    channel = await peer.open()
    peer.channels.remove(channel)
    channel.write(control(messages.EventsRead(since=""))(5) * 2)
    channel.close()
    return 1


async def half_frames(peer: Peer) -> int:
    """All but the last byte of the longest frame, on each channel."""
    while len(peer.channels) < 4:
        channel = await peer.open()
        channel.write((65_536).to_bytes(4, "big") + b"\x10" + bytes(65_534))
    await asyncio.sleep(0.5)
    return 1


async def unread(peer: Peer) -> int:
    """Ask for answers, and read nothing from the socket."""
    peer.connection._transport.pause_reading()
    for _ in range(20):
        await peer.room()
        peer.channels[0].write(b"".join(control(messages.KeyList(limit=500))(n) for n in peer.numbers(8)))
    return 160


async def unread_step(peer: Peer) -> int:
    if not peer.channels:
        for _ in range(4):
            await peer.open()
    return await unread(peer)


async def tiny_reads(peer: Peer) -> int:
    """One byte in each segment."""
    channel = peer.channels[0] if peer.channels else await peer.open()
    sent: list[bytes] = []
    transport, write = peer.connection._transport, peer.connection._transport.write
    peer.connection._transport = _Collected(sent, transport)
    try:
        channel.write(encode(Kind.PING, 5) * 100)
    finally:
        peer.connection._transport = transport
    data = b"".join(sent)
    for at in range(len(data)):
        write(data[at : at + 1])
        if at % 50 == 0:
            await asyncio.sleep(0)
    return len(data)


class _Collected:
    def __init__(self, sent: list[bytes], transport: Any) -> None:
        self._sent, self._inner = sent, transport

    def write(self, data: bytes) -> None:
        self._sent.append(bytes(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def logins(peer: Peer) -> int:
    """Log in and leave."""
    raise ConnectionResetError


async def rekey(peer: Peer) -> int:
    """Begin a key exchange, and another one when it is done."""
    peer.connection._send_kexinit()
    peer.connection._kexinit_sent = True
    await asyncio.sleep(0.01)
    return 1


async def stuck_kex(peer: Peer) -> int:
    """Begin a key exchange that is never completed, and ask for answers, which must wait for its end."""
    if not peer.channels:
        await peer.open()
        peer.connection._send_kexinit()
        peer.connection._kex_complete = True  # as far as this end is concerned
        peer.connection._process_kexinit = lambda *_: True
    peer.channels[0].write(b"".join(encode(Kind.PING, number) for number in peer.numbers(2_000)))
    await asyncio.sleep(0.01)
    return 2_000


KINDS: dict[str, Step] = {
    "pings": frames(lambda number: encode(Kind.PING, number), 2_000),
    "pongs": frames(lambda number: encode(Kind.PONG, number), 2_000),
    "cancels": frames(lambda number: encode(Kind.CANCEL, number), 2_000),
    "skipped": frames(lambda number: encode(0xEE, number), 2_000),
    "refused": frames(lambda n: encode_key_operation(n, 500, 1, 0x0403, b"\7" * 32, DATA), 200),
    "purposes": frames(lambda n: encode_key_operation(n, 500, 99, 0x0403, b"\7" * 32, DATA), 200),
    "duplicates": duplicates,
    "control": frames(control(messages.WhoAmI()), 20, channels=4),
    "lists": frames(control(messages.KeyList(limit=500)), 20, channels=4),
    "refused-control": frames(control(messages.Status()), 20, channels=4),
    "malformed-control": frames(lambda n: encode_control_request(n, 5_000, b'{"op":"x",' + b" " * 500), 20),
    "about": frames(
        lambda n: control(messages.AuditAbout(first=0, limit=1_000))(n) + encode(Kind.CANCEL, n),
        20,
        channels=4,
    ),
    "audit-read": frames(control(messages.AuditRead(first=0, limit=1_000)), 8),
    "events": frames(control(messages.EventsRead(since="", limit=500)), 20, channels=4),
    "reopen": reopen,
    "tiny-packets": channel_packets(94, String(b"\0")),
    "global-requests": packets(80, String(b"nothing@x"), Boolean(True)),
    "keepalives": packets(80, String(b"keepalive@openssh.com"), Boolean(True)),
    "ignored": packets(2, String(b"")),
    "debug": packets(4, Boolean(False), String(b"x"), String(b"")),
    "unimplemented": packets(3, UInt32(1)),
    "unknown-packets": packets(192),
    "channel-requests": channel_packets(98, String(b"nothing@x"), Boolean(True)),
    "environment": channel_packets(98, String(b"env"), Boolean(True), String(b"A"), String(b"B")),
    "window-adjusts": channel_packets(93, UInt32(1)),
    "refused-channels": packets(90, String(b"direct-x"), UInt32(1), UInt32(1), UInt32(1)),
    "forwards": packets(80, String(b"tcpip-forward"), Boolean(True), String(b"x"), UInt32(1)),
    "rekeys": rekey,
    "stuck-rekey": stuck_kex,
    "tiny-reads": tiny_reads,
    "half-frames": half_frames,
    "unread": unread_step,
    "logins": logins,
}


class Flood:
    """A number of connections of one kind."""

    def __init__(self, host: str, port: int, identity: str, user: str) -> None:
        self._host, self._port, self._user = host, port, user
        self._key = asyncssh.read_private_key(identity)
        self.sent = self.connected = 0

    async def keep(self, step: Step) -> None:
        """Keep one connection flooding."""
        while True:
            with suppress(OSError, asyncssh.Error, TimeoutError):
                connection = await self._connect()
                try:
                    peer = Peer(connection)
                    self.connected += 1
                    while True:
                        await peer.room()
                        self.sent += await step(peer)
                        await asyncio.sleep(0)
                finally:
                    connection.abort()
            await asyncio.sleep(0.02)

    async def _connect(self) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            self._host,
            self._port,
            username=self._user,
            client_keys=[self._key],
            known_hosts=None,
            config=None,
            agent_path=None,
            kex_algs=KEX_ALGORITHMS,
            encryption_algs=CIPHERS,
            compression_algs=["none"],
        )


async def main(kinds: str, host: str, port: str, identity: str, user: str, connections: str) -> None:
    """Flood until killed."""
    flood = Flood(host, int(port), identity, user)
    steps = [KINDS[kind] for kind in kinds.split(",")] * int(connections)
    tasks = [asyncio.create_task(flood.keep(step)) for step in steps]
    began = time.monotonic()
    while flood.connected < len(steps) and time.monotonic() - began < 30:
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    while not any(task.done() for task in tasks):
        await asyncio.sleep(1)
        print(flood.sent, flood.connected, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))  # type: ignore[arg-type]

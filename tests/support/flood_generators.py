"""Load generators, each a separate process: one client far above its share, and idle connections that never log in.

    python flood_generators.py ops HOST PORT IDENTITY USER KEY_HEX SECONDS IN_FLIGHT
    python flood_generators.py long HOST PORT IDENTITY USER KEY_HEX SECONDS IN_FLIGHT
    python flood_generators.py idle HOST PORT COUNT SECONDS
    python flood_generators.py agents HOST PORT DIRECTORY HOST_KEY COUNT USER...
    python flood_generators.py sink              a server that accepts the same connections and discards the frames

`long` sends TLS 1.2 client transcripts: always the bytes on standard input.
`agents` does what COUNT agents do whose hosts request nothing, of these users in turn, and prints `ready` and the seconds whenever all are.
The sink replaces the daemon where a test measures the load that the generators themselves put on the same cores.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import asyncssh
import uvloop

from hsmd.agent.daemon_health import DaemonHealth
from hsmd.agent.news import News
from hsmd.client import Connection, Endpoint
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    Capability,
    Kind,
    Welcome,
    encode,
    encode_hello,
    encode_key_operation,
    encode_welcome,
)
from hsmd.system.ssh_profile import CIPHERS, KEX_ALGORITHMS, SUBSYSTEM

P256, TLS13_SERVER, TLS12_CLIENT = 0x0403, 1, 4
DATA = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)


class _Flooder(asyncssh.SSHClientSession[bytes]):
    """Sends requests as fast as the channel accepts them, with up to `in_flight` unanswered ones."""

    def __init__(self, key: bytes, in_flight: int, purpose: int, data: bytes) -> None:
        self._key, self._in_flight = key, in_flight
        self._purpose, self._data = purpose, data
        self._decoder = FrameDecoder(1 << 20)
        self._next, self.sent, self.answered, self.refused = 1, 0, 0, 0

    def connection_made(self, chan: Any) -> None:
        self._channel = chan

    def session_started(self) -> None:
        self._channel.write(encode_hello(Capability.EVENTS))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        for kind, _, _ in self._decoder.feed(data):
            self.answered += kind == Kind.RESULT
            self.refused += kind == Kind.ERROR
        self.ask()

    def ask(self) -> None:
        frames = []
        while self.sent - self.answered - self.refused < self._in_flight:
            frames.append(encode_key_operation(self._next, 500, self._purpose, P256, self._key, self._data))
            self._next += 1
            self.sent += 1
        if frames:
            self._channel.write(b"".join(frames))


async def operations(
    host: str,
    port: int,
    identity: str,
    user: str,
    key: bytes,
    seconds: float,
    in_flight: int,
    purpose: int = TLS13_SERVER,
    data: bytes = DATA,
) -> None:
    """Flood one daemon, or a sink, on four channels; print the numbers of answers and refusals."""
    connection = await asyncssh.connect(
        host,
        port,
        username=user,
        client_keys=[identity],
        known_hosts=None,
        config=None,
        agent_path=None,
        kex_algs=KEX_ALGORITHMS,
        encryption_algs=CIPHERS,
        compression_algs=["none"],
    )
    flooders = []
    for _ in range(4):
        _, flooder = await connection.create_session(
            lambda: _Flooder(key, in_flight // 4, purpose, data), subsystem=SUBSYSTEM, encoding=None
        )
        flooders.append(flooder)
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    print(sum(each.answered for each in flooders), sum(each.refused for each in flooders), flush=True)
    connection.abort()


def idle(host: str, port: int, count: int, seconds: float) -> None:
    """Keep `count` connections open that send nothing, from another address; reopen closed ones."""
    ends = time.monotonic() + seconds
    held: list[socket.socket] = []
    reported = False
    while time.monotonic() < ends:
        while len(held) < count and time.monotonic() < ends:
            try:
                one = socket.create_connection((host, port), timeout=1, source_address=("127.0.0.2", 0))
            except OSError:
                break
            one.setblocking(False)
            held.append(one)
        if not reported:
            print("ready", flush=True)
            reported = True
        time.sleep(0.2)
        held = [one for one in held if _open(one)]


def _open(one: socket.socket) -> bool:
    try:
        if one.recv(4096):
            return True
    except BlockingIOError:
        return True
    except OSError:
        pass
    one.close()
    return False


async def agents(
    host: str, port: int, directory: Path, host_key: str, count: int, users: Sequence[str]
) -> None:
    """Keep the connections of agents whose hosts request nothing; print how long it took whenever all are connected."""
    available, began = 0, time.monotonic()

    def changed(on: bool) -> None:
        nonlocal available, began
        if available == count:
            began = time.monotonic()
        available += 1 if on else -1
        if available == count:
            print(f"ready {time.monotonic() - began:.3f}", flush=True)

    agents = [
        _Agent(Endpoint(host, port, (host_key,), user, directory / user), changed)
        for user in islice(cycle(users), count)
    ]
    for agent in agents:
        agent.connection.begin()
    await asyncio.gather(*(agent.health.follow() for agent in agents))


class _Agent:
    """What an agent with nothing to do asks of a daemon: its health, and its events."""

    def __init__(self, endpoint: Endpoint, changed: Callable[[bool], None]) -> None:
        def on_state(available: bool) -> None:
            changed(available)
            if available:
                self.health.ask_soon()

        self.connection = Connection(endpoint, on_state=on_state)
        self.health = DaemonHealth(lambda: [self.connection], changed=lambda: None)
        self._news = News(self.connection, replaced=lambda name: None, missed=lambda: None)


class _Discard(asyncssh.SSHServerSession[bytes]):
    """Sends a welcome, then answers every operation with the same bytes."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(1 << 20)
        self._greeted = False

    def connection_made(self, chan: Any) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        frames = self._decoder.feed(data)
        out = []
        for kind, request_id, _ in frames:
            if kind == Kind.HELLO:
                out.append(encode_welcome(Welcome(1, Capability.EVENTS, 1 << 16, 1 << 16)))
            elif kind == Kind.KEY_OPERATION:
                out.append(encode(Kind.RESULT, request_id, bytes(72)))
        if out:
            self._channel.write(b"".join(out))


class _AnyUser(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False

    def session_requested(self) -> _Discard:
        return _Discard()


async def sink() -> None:
    """Print the port, and serve until standard input closes."""
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=_AnyUser,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        kex_algs=KEX_ALGORITHMS,
        encryption_algs=CIPHERS,
        encoding=None,
        line_editor=False,
        login_timeout=3,
    )
    print(server.get_port(), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["ops", host, port, identity, user, key, seconds, in_flight]:
            asyncio.run(
                operations(
                    host, int(port), identity, user, bytes.fromhex(key), float(seconds), int(in_flight)
                )
            )
        case ["long", host, port, identity, user, key, seconds, in_flight]:
            asyncio.run(
                operations(
                    host,
                    int(port),
                    identity,
                    user,
                    bytes.fromhex(key),
                    float(seconds),
                    int(in_flight),
                    TLS12_CLIENT,
                    sys.stdin.buffer.read(),
                )
            )
        case ["idle", host, port, count, seconds]:
            idle(host, int(port), int(count), float(seconds))
        case ["agents", host, port, directory, host_key, count, *users]:
            uvloop.run(agents(host, int(port), Path(directory), host_key, int(count), users))
        case ["sink"]:
            asyncio.run(sink())


if __name__ == "__main__":
    main(sys.argv[1:])

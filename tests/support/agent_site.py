"""An agent with a fake daemon, and peers that write raw bytes to its socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from hsmd.agent import Agent
from hsmd.client import AgentEndpoint, Client
from hsmd.protocol.channel import ClientChannel
from hsmd.protocol.frames import Capability, Frame, encode_hello, encode_key_operation
from tests.support.fake_daemon import FakeDaemon, SoftKey, public_line
from tests.support.polling import eventually

SCHEME = 0x0403


@dataclass
class AgentSite:
    """A fake daemon, and an agent that can be started and stopped."""

    root: Path
    daemon: FakeDaemon
    key: SoftKey
    users: str = '["*"]'
    extra: str = ""
    settings: str = ""
    more_daemons: list[FakeDaemon] = field(default_factory=list)
    agent: Agent | None = None
    task: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        return self.root / "run" / "agent.sock"

    @property
    def config(self) -> Path:
        return self.root / "agent.toml"

    @property
    def endpoint(self) -> AgentEndpoint:
        return AgentEndpoint(self.socket)

    def configure(self) -> None:
        daemons = "".join(
            f'[[daemon]]\naddress = "127.0.0.1:{daemon.port}"\nhost_keys = ["{public_line(daemon.host_key)}"]\n'
            for daemon in (self.daemon, *self.more_daemons)
        )
        self.config.write_text(f"""
[agent]
socket = "{self.socket}"
mode = "0666"
state = "{self.root}/state"
client = "web-1"
identity = "{self.daemon.identity}"
{self.settings}
{daemons}
[defaults]
users = {self.users}
{self.extra}
""")

    async def start(self, *, connected: bool = True) -> Agent:
        self.configure()
        self.agent = Agent(self.config)
        ready = asyncio.Event()
        self.task = asyncio.create_task(self.agent.run(ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.task.done():
            await self.task
        if connected:
            await self.connected()
        return self.agent

    async def connected(self) -> None:
        agent = self.agent
        assert agent is not None
        await eventually(
            lambda: agent._upstream.available is not None and agent._cache.get(self.key.name) is not None
        )

    async def stop(self) -> None:
        if self.agent is not None and self.task is not None:
            self.agent.stop()
            await asyncio.wait_for(self.task, 10)
        self.agent = self.task = None

    async def sign(self, data: bytes = b"data", *, timeout_s: float = 2.0, key: bytes = b"") -> bytes:
        """One operation on a short connection, as a TLS server makes it."""
        client = Client.connect(self.endpoint)
        return await asyncio.to_thread(
            client.use_key, key or self.key.digest, 8, SCHEME, data, timeout_s=timeout_s
        )

    async def control(self, request: object) -> object:
        return await asyncio.to_thread(Client.connect(self.endpoint).control, request, timeout_s=2)

    async def peer(self, *, hello: bool = True) -> Peer:
        reader, writer = await asyncio.open_unix_connection(self.socket)
        peer = Peer(reader, writer)
        if hello:
            peer.send(encode_hello(Capability.CONTROL))
            await peer.frame()
        return peer


class Peer:
    """The client's end of a local connection, which writes raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._channel = ClientChannel()
        self._frames: list[Frame] = []

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def use(self, request_id: int, key: bytes, data: bytes = b"data", deadline_ms: int = 2000) -> None:
        self.send(encode_key_operation(request_id, deadline_ms, 8, SCHEME, key, data))

    async def frame(self, within_s: float = 5.0) -> Frame:
        """The next frame. Raises EOFError when the agent has closed the connection."""
        async with asyncio.timeout(within_s):
            while not self._frames:
                data = await self._reader.read(65_536)
                if not data:
                    raise EOFError
                self._frames = self._channel.receive(data)
        return self._frames.pop(0)

    async def ended(self, within_s: float = 5.0) -> list[Frame]:
        """All frames until the end of the connection."""
        frames = []
        try:
            while True:
                frames.append(await self.frame(within_s))
        except (EOFError, ConnectionError):
            return frames

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def talk_as(uid: int, path: Path, data: bytes) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, _talk(uid, path, data))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        received = answer.read()
    os.waitpid(child, 0)
    return received


def _talk(uid: int, path: Path, data: bytes) -> bytes:
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    received = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(data)
        sock.settimeout(0.3)
        try:
            while piece := sock.recv(65_536):
                received += piece
        except TimeoutError:
            pass
    return received

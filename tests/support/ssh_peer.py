"""SSH peers of a daemon with low-level control: raw frames, single authentication requests, arbitrary user certificates."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import asyncssh
from asyncssh.packet import Boolean, String, UInt32, UInt64

from hsmd.errors import HsmdError
from hsmd.protocol import messages
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Capability,
    Kind,
    decode_error,
    encode_control_request,
    encode_hello,
    encode_key_operation,
)
from hsmd.protocol.messages import Request, encode_request
from hsmd.purposes import Purpose
from hsmd.system.ssh_profile import CIPHERS, KEX_ALGORITHMS, SUBSYSTEM
from tests.support.daemon import WEB, Daemon
from tests.support.tls_bytes import P256, TLS13

# --- raw frames ---


class Wire(asyncssh.SSHClientSession[bytes]):
    """A channel with the subsystem; `frames` collects the received frames in order."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.raw = bytearray()
        self.closed = asyncio.Event()
        self._decoder = FrameDecoder(MAX_ANSWER_LENGTH)
        self._came = asyncio.Event()

    def connection_made(self, chan: Any) -> None:
        self.channel = chan
        self.write = chan.write

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.raw += data
        self.frames += self._decoder.feed(data)
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._came.set()

    def hello(self, *more: bytes) -> None:
        self.write(encode_hello(Capability.CONTROL | Capability.EVENTS) + b"".join(more))

    async def answer(self, request_id: int, within_s: float = 10.0) -> tuple[int, bytes]:
        """(kind, body) of the answer to a request; id 0 for an error about the channel."""
        async with asyncio.timeout(within_s):
            while True:
                for kind, found, body in self.frames:
                    if found == request_id and kind in (
                        Kind.RESULT,
                        Kind.ERROR,
                        Kind.CONTROL_RESULT,
                        Kind.PONG,
                    ):
                        return kind, body
                assert not self.closed.is_set(), f"the channel was closed; frames: {self.frames}"
                self._came.clear()
                await self._came.wait()

    async def use(
        self, request_id: int, key: bytes, data: bytes = TLS13, **changes: int
    ) -> tuple[int, bytes]:
        self.write(operation(request_id, key, data, **changes))
        return await self.answer(request_id)

    async def error(self, request_id: int) -> HsmdError:
        kind, body = await self.answer(request_id)
        assert kind == Kind.ERROR, (kind, body)
        return decode_error(body)

    async def control(self, request_id: int, document: bytes | Request) -> tuple[int, bytes]:
        if not isinstance(document, bytes):
            document = encode_request(document)
        self.write(encode_control_request(request_id, 10_000, document))
        return await self.answer(request_id)

    async def error_of_control(self, request_id: int, request: bytes | Request) -> HsmdError:
        kind, body = await self.control(request_id, request)
        assert kind == Kind.ERROR, (kind, body)
        return decode_error(body)


def operation(
    request_id: int,
    key: bytes,
    data: bytes = TLS13,
    *,
    purpose: int = Purpose.TLS13_SERVER,
    scheme: int = P256,
    deadline_ms: int = 5_000,
) -> bytes:
    return encode_key_operation(request_id, deadline_ms, purpose, scheme, key, data)


async def ssh(daemon: Daemon, client: str, key: Any = None, **options: Any) -> asyncssh.SSHClientConnection:
    """A plain asyncssh connection; `key` is a key or a (key, certificate) pair."""
    host, port = daemon.address
    settings: dict[str, Any] = {
        "known_hosts": ([asyncssh.import_public_key(daemon.notice["host_key"])], [], []),
        "username": client, "client_keys": [key or daemon.keys[client]], "config": [], "agent_path": None,
        "kex_algs": KEX_ALGORITHMS, "encryption_algs": CIPHERS, "compression_algs": ["none"],
        "x509_trusted_certs": None, "login_timeout": 10,
    }  # fmt: skip
    return await asyncssh.connect(host, port, **(settings | options))


async def wire(connection: asyncssh.SSHClientConnection, *, hello: bool = True, **options: Any) -> Wire:
    """A channel with the subsystem on an asyncssh connection."""
    made = Wire()
    settings: dict[str, Any] = {"subsystem": SUBSYSTEM, "encoding": None}
    await connection.create_session(lambda: made, **(settings | options))
    if hello:
        made.hello()
    return made


async def assert_cut_off(connection: asyncssh.SSHClientConnection, channel: Wire, key: bytes) -> None:
    """Check that a channel whose first use was answered gets no further result, and that its connection is closed."""
    refused = False
    for number in range(2, 1_000):
        try:
            channel.write(operation(number, key))
        except OSError:
            refused = True
            break
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await connection.wait_closed()
    assert refused, "the channel was never closed"
    assert not [frame for frame in channel.frames if frame[0] == Kind.RESULT and frame[1] > 1]


# --- user certificates, valid and invalid ---

USER = 1


def certificate(
    ca: asyncssh.SSHKey,
    key: asyncssh.SSHKey,
    principals: Sequence[str],
    *,
    valid_s: tuple[float, float] = (-60, 600),
    critical: Sequence[tuple[str, bytes]] = (),
    serial: int = 7,
    kind: int = USER,
    key_id: bytes = b"id",
    signed_with: bytes = b"ssh-ed25519",
) -> tuple[bytes, bytes]:
    """(algorithm, blob) of an OpenSSH Ed25519 certificate with exactly these members (PROTOCOL.certkeys)."""
    algorithm = b"ssh-ed25519-cert-v01@openssh.com"
    now = time.time()
    public = key.public_data[-32:]
    blob = (
        String(algorithm)
        + String(os.urandom(32))
        + String(public)
        + UInt64(serial)
        + UInt32(kind)
        + String(key_id)
        + String(b"".join(String(name) for name in principals))
        + UInt64(int(now + valid_s[0]))
        + UInt64(int(now + valid_s[1]))
        + String(b"".join(String(name) + String(value) for name, value in critical))
        + String(b"")
        + String(b"")
        + String(ca.public_data)
    )
    return algorithm, blob + String(ca.sign(blob, signed_with))


# --- single authentication requests ---

MSG_USERAUTH_REQUEST, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS, MSG_USERAUTH_PK_OK = 50, 51, 52, 60


class SshPeer(asyncssh.SSHClient):
    """An SSH connection on which the test sends each authentication request itself."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.replies: asyncio.Queue[int] = asyncio.Queue()
        self.lost = asyncio.Event()

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.replies.put_nowait(0)

    async def public_key_auth_requested(self) -> None:
        self._take_over()
        self._asked.set()
        await self._never

    @classmethod
    async def connect(cls, daemon: Daemon) -> SshPeer:
        made: list[SshPeer] = []

        def factory() -> SshPeer:
            made.append(cls())
            return made[-1]

        task = asyncio.ensure_future(
            ssh(
                daemon,
                "unused",
                daemon.keys[WEB],
                client_factory=factory,
                preferred_auth="publickey",
                client_keys=None,
            )
        )
        async with asyncio.timeout(10):
            while not made or not made[0]._asked.is_set():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.005)
        made[0].task = task  # type: ignore[attr-defined]
        return made[0]

    def _take_over(self) -> None:
        """Redirect the replies to this object; asyncssh's state machine receives only a success."""
        conn, inner = self.conn, self.conn.process_packet

        def process(kind: int, number: int, packet: Any) -> Any:
            self.replies.put_nowait(kind)
            return inner(kind, number, packet) if kind == MSG_USERAUTH_SUCCESS else True

        def to_connection(kind: int, number: int, packet: Any) -> Any:
            return process(kind, number, packet)

        original = conn.process_packet

        def dispatch(kind: int, number: int, packet: Any) -> Any:
            if kind in (MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS):
                return process(kind, number, packet)
            return original(kind, number, packet)

        conn.process_packet = dispatch
        if conn._auth is not None:
            conn._auth.process_packet = to_connection

    def send(self, user: str, method: str, *fields: bytes) -> None:
        self.conn.send_packet(
            MSG_USERAUTH_REQUEST, String(user), String("ssh-connection"), String(method), *fields
        )

    def query(self, user: str, key: asyncssh.SSHKey) -> None:
        """Ask whether this key is acceptable."""
        self.send(user, "publickey", Boolean(False), String(key.algorithm), String(key.public_data))

    def sign(
        self,
        user: str,
        key: asyncssh.SSHKey,
        *,
        shown: tuple[bytes, bytes] | None = None,
        signed_user: str = "",
        signed_with: bytes = b"ssh-ed25519",
    ) -> None:
        """Log in with a signature by `key`; `shown` is another key or a certificate to show instead."""
        algorithm, blob = shown or (key.algorithm, key.public_data)
        fields = (Boolean(True), String(algorithm), String(blob))
        request = (
            bytes([MSG_USERAUTH_REQUEST])
            + String(signed_user or user)
            + String("ssh-connection")
            + String("publickey")
            + b"".join(fields)
        )
        signature = key.sign(String(self.conn._session_id) + request, signed_with)
        self.send(user, "publickey", *fields, String(signature))

    async def reply(self, within_s: float = 5.0) -> int:
        """The kind of the next reply; 0 if the connection is lost."""
        async with asyncio.timeout(within_s):
            return await self.replies.get()

    async def whoami(self) -> messages.Identity | None:
        """The identity that the daemon has accepted; None if it has closed the connection."""
        try:
            async with asyncio.timeout(5):
                channel = await wire(self.conn)
                kind, body = await channel.control(1, messages.WhoAmI())
        except (asyncssh.Error, OSError, AssertionError):
            return None
        assert kind == Kind.CONTROL_RESULT
        return messages.decode_result(body, messages.Identity)

    def close(self) -> None:
        self.conn.abort()
        self.task.cancel()  # type: ignore[attr-defined]

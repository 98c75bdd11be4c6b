"""A12: an attacker between a front end and its daemon gets no connection, no login and no token; no question is ever prompted.

Impostors have keys and certificates of their own; relays forward to the real daemon and change the handshake. Each is tried
against what agents use (a connection that retries), what programs use, and the enrolment of a new client.
"""

from __future__ import annotations

import asyncio
import builtins
import getpass
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.client import Client, Connection, Endpoint
from hsmd.client.enrolment import enrol
from hsmd.errors import HsmdError, ProtocolError, Unavailable
from hsmd.protocol import messages
from hsmd.protocol.enrolment import EnrolmentToken
from tests.support.daemon import OPERATOR, WEB, Daemon, public_line, run_aside

pytestmark = pytest.mark.timeout(120)

ED25519 = asyncssh.generate_private_key("ssh-ed25519")
CA, OTHER_CA = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
HERE = "127.0.0.1"


def certified(by: Any = CA, **options: Any) -> dict[str, Any]:
    made = by.generate_host_certificate(ED25519, "host", **({"principals": [HERE]} | options))
    return {"server_host_keys": [(ED25519, made)]}


IMPOSTORS: dict[str, tuple[bool, Callable[[], dict[str, Any]]]] = {
    "unknown host key": (False, lambda: {"server_host_keys": [ED25519]}),
    "host key where a CA is pinned": (True, lambda: {"server_host_keys": [ED25519]}),
    "certificate for another host": (True, lambda: certified(principals=["192.0.2.1"])),
    "certificate for any host": (True, lambda: certified(principals=[])),
    "expired certificate": (True, lambda: certified(valid_after="20200101", valid_before="20200102")),
    "certificate of an unknown CA": (True, lambda: certified(OTHER_CA)),
    "certificate where a key is pinned": (False, certified),
    "RSA with SHA-1 only": (
        False,
        lambda: {
            "server_host_keys": [asyncssh.generate_private_key("ssh-rsa", key_size=2_048)], "signature_algs": ["ssh-rsa"],
        },
    ),
    "weak key exchange only": (False, lambda: {"server_host_keys": [ED25519], "kex_algs": ["diffie-hellman-group14-sha1"]}),
    "no AES-GCM": (
        False,
        lambda: {"server_host_keys": [ED25519], "encryption_algs": ["aes128-cbc"], "mac_algs": ["hmac-sha1"]},
    ),
}  # fmt: skip
"""name: (whether the CA is pinned instead of the daemon's key, options of the impostor's server)"""

DISCONNECTS = {"RSA with SHA-1 only", "weak key exchange only", "no AES-GCM"}
"""The side that first finds no common algorithm disconnects; when that is the impostor, the caller only sees a lost connection."""


def instead_of(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    assert len(old) == len(new)
    return lambda data: data.replace(old, new)


def with_ignore(data: bytes) -> bytes:
    """An SSH_MSG_IGNORE before the key exchange's reply, as the prefix truncation of CVE-2023-48795 begins."""
    at = data.find(b"SSH-2.0-")
    end = data.find(b"\r\n") + 2 if at == 0 else 0
    ignore = b"\0\0\0\x0c\x06\x02\0\0\0\0" + b"\0" * 6
    return data[:end] + ignore + data[end:]


RELAYS: dict[str, Callable[[bytes], bytes]] = {
    "strict key exchange stripped": instead_of(
        b"kex-strict-s-v00@openssh.com", b"kex-strict-x-v00@openssh.com"
    ),
    "stronger key exchange stripped": instead_of(b"mlkem768x25519-sha256", b"mlkem768x25519-sha255"),
    "protocol version lowered": instead_of(b"SSH-2.0-hsmd", b"SSH-1.9-hsmd"),
    "banner changed": instead_of(b"SSH-2.0-hsmd", b"SSH-2.0-hsmD"),
    "packet injected before encryption": with_ignore,
}


class AcceptsAnyLogin(asyncssh.SSHServer):
    """An impostor that accepts any login and records the user names."""

    logins: list[str]

    def begin_auth(self, username: str) -> bool:
        self.logins.append(username)
        return False


@asynccontextmanager
async def impostor(options: dict[str, Any]) -> AsyncIterator[tuple[int, list[str]]]:
    """Yields (port, user names of the login attempts)."""
    logins: list[str] = []

    def factory() -> AcceptsAnyLogin:
        made = AcceptsAnyLogin()
        made.logins = logins
        return made

    server = await asyncssh.listen(HERE, 0, server_factory=factory, config=[], **options)
    try:
        yield server.get_port(), logins
    finally:
        server.close()
        await server.wait_closed()


class Relay:
    """A TCP relay before the daemon; `target` may change, `edit` gets the first two reads from it (banner and offer)."""

    def __init__(self, target: tuple[str, int], edit: Callable[[bytes], bytes]) -> None:
        self.target = target
        self.edit = edit
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepting = asyncio.current_task()
        assert accepting is not None
        self.tasks.append(accepting)
        self.writers.append(writer)
        there, back = await asyncio.open_connection(*self.target)
        self.writers.append(back)
        self.tasks += [
            asyncio.create_task(self.copy(reader, back, 0)), asyncio.create_task(self.copy(there, writer, 2))
        ]  # fmt: skip

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: int) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(self.edit(data) if first > 0 else data)
                first -= 1
        writer.close()

    def cut(self) -> None:
        for writer in self.writers:
            writer.close()

    async def end(self) -> None:
        """Close everything, also what a connection that is just being accepted opens."""
        while self.tasks:
            self.cut()
            tasks, self.tasks = self.tasks, []
            await asyncio.gather(*tasks)
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)


@asynccontextmanager
async def relay(
    target: tuple[str, int], edit: Callable[[bytes], bytes] = bytes
) -> AsyncIterator[tuple[int, Relay]]:
    made = Relay(target, edit)
    server = await asyncio.start_server(made.accept, HERE, 0)
    try:
        yield server.sockets[0].getsockname()[1], made
    finally:
        server.close()
        await made.end()


# --- three kinds of callers ---


async def as_an_agent(endpoint: Endpoint, token: EnrolmentToken) -> None:
    """Connect in the background, with retries; raise the problem that the connection reports."""
    connection = Connection(endpoint, patient=True)
    connection.begin()
    try:
        async with asyncio.timeout(10):
            while connection.problem is None and not connection.available:
                await asyncio.sleep(0.01)
        assert not connection.available
        raise connection.problem or AssertionError("no problem")
    finally:
        await connection.close()


async def as_a_program(endpoint: Endpoint, token: EnrolmentToken) -> None:
    def connect() -> None:
        with Client.connect(endpoint) as client:
            client.control(messages.WhoAmI(), timeout_s=5)

    await asyncio.to_thread(connect)


async def as_a_new_client(endpoint: Endpoint, token: EnrolmentToken) -> None:
    await enrol(token, public_line(asyncssh.generate_private_key("ssh-ed25519")))


CALLERS: dict[str, Callable[[Endpoint, EnrolmentToken], Awaitable[None]]] = {
    "agent": as_an_agent, "program": as_a_program, "enrolment": as_a_new_client,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a question was prompted")

    monkeypatch.setattr(builtins, "input", never)
    monkeypatch.setattr(getpass, "getpass", never)
    monkeypatch.setattr(sys, "stdin", None)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.support.daemon import running_daemon

    with running_daemon(tmp_path_factory.mktemp("relay") / "daemon") as built:
        yield built


@pytest.fixture
def token(daemon: Daemon) -> EnrolmentToken:
    return EnrolmentToken.parse(daemon.ask(messages.ClientEnroll("new")).token)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", IMPOSTORS)
async def test_an_impostor_receives_no_login(
    daemon: Daemon, token: EnrolmentToken, name: str, caller: str
) -> None:
    pins_ca, options = IMPOSTORS[name]
    pin = f"cert-authority {public_line(CA)}" if pins_ca else daemon.notice["host_key"]
    if pins_ca:
        token = replace(token, pins_ca=True, pin=sha256(CA.public_data).digest())
    async with impostor(options()) as (port, logins):
        endpoint = daemon.endpoint(WEB, port=port, host_keys=(pin,))
        with pytest.raises((ProtocolError, Unavailable) if name in DISCONNECTS else ProtocolError):
            await CALLERS[caller](endpoint, replace(token, address=f"{HERE}:{port}"))
        assert logins == []


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", RELAYS)
async def test_a_changed_handshake_fails_before_the_login(
    daemon: Daemon, token: EnrolmentToken, name: str, caller: str
) -> None:
    opened = len(daemon.logged("connection.opened"))
    async with relay(daemon.address, RELAYS[name]) as (port, _):
        endpoint = daemon.endpoint(WEB, port=port)
        with pytest.raises((ProtocolError, Unavailable)):
            await CALLERS[caller](endpoint, replace(token, address=f"{HERE}:{port}"))
    assert len(daemon.logged("connection.opened")) == opened


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_relay_that_changes_nothing_works(daemon: Daemon, token: EnrolmentToken, caller: str) -> None:
    """The same relay without a change connects: so the changes made the other tests fail to connect."""
    async with relay(daemon.address) as (port, _):
        endpoint = daemon.endpoint(WEB, port=port)
        if caller == "agent":
            async with Connection(endpoint) as connection:
                assert connection.available
        else:
            await CALLERS[caller](endpoint, replace(token, address=f"{HERE}:{port}"))


async def test_a_changed_host_key_permanently_ends_a_good_connection(daemon: Daemon) -> None:
    """First the real daemon answers, then an impostor at the same address."""
    async with (
        impostor({"server_host_keys": [ED25519]}) as (false, logins),
        relay(daemon.address) as (port, between),
    ):
        connection = Connection(daemon.endpoint(WEB, port=port))
        await connection.start()
        between.target = (HERE, false)
        between.cut()
        async with asyncio.timeout(15):
            while not isinstance(connection.problem, ProtocolError):
                await asyncio.sleep(0.01)
        assert logins == []
        await connection.close()


def test_a_replayed_handshake_fails(daemon: Daemon, token: EnrolmentToken) -> None:
    """Everything the daemon once sent, replayed on a new connection: its signature covers another key exchange."""
    sent = bytearray()

    def record(data: bytes) -> bytes:
        sent.extend(data)
        return data

    async def attack() -> None:
        async with (
            relay(daemon.address, record) as (port, _),
            Connection(daemon.endpoint(OPERATOR, port=port)) as connection,
        ):
            assert connection.available
        played = [bytes(sent), b""]
        for caller in CALLERS.values():
            left = iter(played)
            async with relay(daemon.address, lambda data, left=left: next(left, b"")) as (port, _):  # type: ignore[misc]
                with pytest.raises(HsmdError):
                    await caller(
                        daemon.endpoint(OPERATOR, port=port), replace(token, address=f"{HERE}:{port}")
                    )

    run_aside(attack)
    assert b"SSH-2.0-hsmd" in sent


def test_an_unreachable_address_prompts_for_nothing(daemon: Daemon, tmp_path: Path) -> None:
    """An address where nothing listens gives an error immediately, without a prompt."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable):
        run_aside(lambda: Connection(daemon.endpoint(WEB, port=port)).start())

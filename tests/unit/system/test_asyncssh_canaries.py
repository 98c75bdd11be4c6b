"""Canaries: behaviour of asyncssh that the project relies on or guards against. If one fails, read the new release first.

Each test shows asyncssh without the guards, or checks a private name that a guard replaces.
"""

from __future__ import annotations

import ast
import base64
import getpass
import inspect
import re
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import (
    SSHClientConnectionOptions,
    SSHServerConnection,
    SSHServerConnectionOptions,
)
from asyncssh.packet import String
from asyncssh.public_key import SSHOpenSSHCertificate, decode_ssh_certificate

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.listener import SshListener
from hsmd.system import ssh_profile as asyncssh_profile
from hsmd.system.ssh_profile import (
    CIPHERS,
    CLOSED,
    KEX_ALGORITHMS,
    forget_login,
    keep_options,
    need_no_user_entry,
    sent_together,
    session_identifier,
    without_ignore_packets,
)
from tests.support.ssh_peer import certificate

pytestmark = pytest.mark.timeout(30)
KEY = asyncssh.generate_private_key("ssh-ed25519")
CA = asyncssh.generate_private_key("ssh-ed25519")


@dataclass
class Plain:
    """An asyncssh server without guards that records the calls of its handlers."""

    port: int = 0
    connections: list[Any] = field(default_factory=list)
    channels: list[Any] = field(default_factory=list)
    ca_questions: list[tuple[Any, ...]] = field(default_factory=list)


@pytest.fixture
async def plain() -> AsyncIterator[Plain]:
    notes = Plain()

    class Session(asyncssh.SSHServerSession[bytes]):
        def connection_made(self, chan: Any) -> None:
            notes.channels.append(chan)

        def subsystem_requested(self, subsystem: str) -> bool:
            return True

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            notes.connections.append(conn)

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_ca_key(self, *asked: Any) -> bool:
            notes.ca_questions.append(asked)
            return True

        def validate_public_key(self, username: str, key: Any) -> bool:
            return True

        def session_requested(self) -> Any:
            return Session()

    acceptor = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[KEY],
        encoding=None,
        config=[],
        line_editor=False,
    )
    notes.port = acceptor.get_port()
    yield notes
    acceptor.close()
    for connection in notes.connections:
        connection.abort()
    await acceptor.wait_closed()


async def connect(plain: Plain, **options: Any) -> asyncssh.SSHClientConnection:
    settings: dict[str, Any] = {
        "known_hosts": None, "username": "user", "client_keys": [KEY], "config": [], "agent_path": None,
        "encryption_algs": CIPHERS, "kex_algs": KEX_ALGORITHMS,
    }  # fmt: skip
    return await asyncssh.connect("127.0.0.1", plain.port, **(settings | options))


def with_certificate(*arguments: Any, **options: Any) -> tuple[Any, Any]:
    algorithm, blob = certificate(CA, KEY, *arguments, **options)
    return KEY, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob))


# --- where private names are used ---

SOURCES = Path(asyncssh_profile.__file__).parents[1]


def test_private_names_of_asyncssh_are_used_in_one_file() -> None:
    """`x._name` with a name that the class around it does not set itself, in the packages that may import asyncssh."""
    private = re.compile(r"_[a-z]\w*")
    faults = []
    for package in ("client", "cli", "agent", "daemon/front/ssh", "system"):
        for path in (SOURCES / package).rglob("*.py"):
            if path == Path(asyncssh_profile.__file__) or "asyncssh" not in path.read_text():
                continue
            attributes = [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
            ]
            own = {node.attr for node in attributes if ast.unparse(node.value) == "self"}
            faults += [
                f"{path.relative_to(SOURCES)}:{node.lineno}: {ast.unparse(node)}"
                for node in attributes
                if private.fullmatch(node.attr)
                and node.attr not in own
                and ast.unparse(node.value).split(".")[-1]
                not in ("algorithm", "given", "_mgf")  # private names of cryptography
            ]
    assert not faults, faults


# --- behaviour to guard against ---


async def test_an_empty_principal_list_is_still_valid_for_every_user(plain: Plain) -> None:
    async with await connect(plain, client_keys=[with_certificate([])]):
        assert plain.ca_questions


async def test_the_application_still_receives_neither_principals_nor_serial(plain: Plain) -> None:
    async with await connect(plain, client_keys=[with_certificate(["user"])]):
        assert set(plain.ca_questions) == {("user", CA.convert_to_public())}


async def test_an_ignore_packet_is_still_sent_before_every_packet(plain: Plain) -> None:
    sent: list[int] = []
    connection = await connect(plain)
    send_packet = connection.send_packet

    def send(kind: int, *rest: bytes, **options: Any) -> None:
        sent.append(kind)
        send_packet(kind, *rest, **options)

    connection.send_packet = send  # type: ignore[method-assign]
    channel, _ = await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
    sent.clear()
    channel.write(b"x")
    assert sent.count(2) == 1, "SSH_MSG_IGNORE goes through send_packet, once for a packet"
    connection.abort()


async def test_the_guard_removes_all_ignore_packets(plain: Plain) -> None:
    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: Any) -> None:
            without_ignore_packets(conn)

    connection = await connect(plain, client_factory=Client)
    channel, _ = await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
    before = connection._send_seq  # type: ignore[attr-defined]
    for _ in range(10):
        channel.write(b"x")
    assert connection._send_seq - before == 10  # type: ignore[attr-defined]
    connection.abort()


@pytest.mark.parametrize(("together", "writes"), [(False, 3), (True, 1)])
async def test_the_answer_to_a_key_agreement_is_still_three_writes_and_is_one_by_the_guard(
    plain: Plain, monkeypatch: pytest.MonkeyPatch, together: bool, writes: int
) -> None:
    """The reply, SSH_MSG_NEWKEYS and SSH_MSG_EXT_INFO are sent while the client's SSH_MSG_KEX_ECDH_INIT is handled."""
    written: list[bytes] = []
    handle_packet = SSHServerConnection._recv_packet

    def handle(self: Any) -> bool:
        exchanging = self._kex is not None and not written
        if exchanging:
            monkeypatch.setattr(self, "_transport", Transport(self._transport, written))
        with sent_together(self) if together else nullcontext():
            handled = handle_packet(self)
        if exchanging:
            self._transport = self._transport.inner
        return handled

    monkeypatch.setattr(SSHServerConnection, "_recv_packet", handle)
    async with await connect(plain):
        assert len(written) == writes
    assert b"".join(written)[5] == 31, "the reply to a key agreement is the first"


class Transport:
    """Notes what is written to another transport."""

    def __init__(self, inner: Any, written: list[bytes]) -> None:
        self.inner, self.written = inner, written

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.inner.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("kept", [False, True])
async def test_options_are_still_made_anew_for_each_login_and_are_kept_by_the_guard(
    plain: Plain, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    made: list[Any] = []
    begin = SSHServerConnection._connection_made

    def note(self: Any) -> None:
        made.append(self._options)
        if kept:
            keep_options(self)
        begin(self)

    monkeypatch.setattr(SSHServerConnection, "_connection_made", note)
    async with await connect(plain):
        assert (plain.connections[0]._options is made[0]) == kept


async def test_keys_are_exchanged_anew_after_the_login_was_forgotten(plain: Plain) -> None:
    async with await connect(plain) as connection:
        (served,) = plain.connections
        assert served._client_kexinit
        assert served._server_kexinit
        before = {name: getattr(served, name) for name in asyncssh_profile._OF_CLIENTS}
        assert not any(before.values()), "they are empty on a server"
        forget_login(served)
        assert not served._client_kexinit
        assert not served._server_kexinit
        first, served._rekey_bytes_sent = served._recv_encryption, served._rekey_bytes
        await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
        assert served._recv_encryption is not first
        await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
        assert served._session_id, "that of the first exchange stays (RFC 4253, section 7.2)"


async def test_both_ends_have_one_session_identifier_and_no_other_connection_has_it(plain: Plain) -> None:
    async with await connect(plain) as first, await connect(plain) as second:
        bindings = [session_identifier(connection) for connection in plain.connections]
        assert [session_identifier(first), session_identifier(second)] == bindings
        assert [len(each) for each in bindings] == [32, 32]
        assert bindings[0] != bindings[1]
        served = plain.connections[0]
        before, served._rekey_bytes_sent = served._recv_encryption, served._rekey_bytes
        await first.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
        await first.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
        assert served._recv_encryption is not before
        assert session_identifier(served) == session_identifier(first) == bindings[0]


async def test_environment_variables_are_still_kept_without_a_limit(plain: Plain) -> None:
    connection = await connect(plain)
    channel, _ = await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
    for number in range(200):
        channel._send_request(b"env", String(f"V{number}"), String("x"))
    assert await channel._make_request(b"env", String("LAST"), String(""))
    assert len(plain.channels[0]._env) >= 200
    connection.abort()


async def test_there_is_still_no_limit_on_tries_or_channels(plain: Plain) -> None:
    connection = await connect(plain)
    for _ in range(50):
        await connection.create_session(asyncssh.SSHClientSession, subsystem="x", encoding=None)
    assert len(plain.channels) == 50
    connection.abort()


def test_a_full_transport_is_still_ignored() -> None:
    """The reason for `Flow`."""
    source = inspect.getsource(asyncssh.connection.SSHConnection.pause_writing)
    assert "Do nothing" in source


# --- behaviour to rely on ---


def test_certificates_with_unknown_critical_options_are_not_decoded() -> None:
    _, blob = certificate(CA, KEY, ["x"], critical=[(b"no-such-option", b"")])
    with pytest.raises(asyncssh.KeyImportError):
        decode_ssh_certificate(blob)


def test_the_known_critical_options_are_the_two_that_are_checked() -> None:
    assert set(asyncssh.public_key.SSHOpenSSHCertificateV01._user_option_decoders) == {
        b"force-command",
        b"source-address",
    }


def test_a_certificates_signature_is_checked_when_it_is_decoded() -> None:
    _, blob = certificate(CA, KEY, ["x"])
    decode_ssh_certificate(blob)
    with pytest.raises(asyncssh.KeyImportError):
        decode_ssh_certificate(blob.replace(b"\x00\x00\x00\x01x", b"\x00\x00\x00\x01y"))


def test_a_certificate_has_the_fields_that_are_read() -> None:
    _, blob = certificate(CA, KEY, ["x"], serial=5)
    made: Any = decode_ssh_certificate(blob)
    assert isinstance(made, SSHOpenSSHCertificate)
    assert not made.is_x509_chain
    assert (made.principals, made._serial, made.signing_key.get_fingerprint()) == (
        ["x"],
        5,
        CA.get_fingerprint(),
    )
    assert made._valid_after < made._valid_before


async def test_the_replaced_methods_are_called(plain: Plain) -> None:
    """`_finish_userauth` for every authentication request, `validate_public_key` for every key, `_recv_packet` and `_recv_data`
    for every packet; handlers are looked up on the instance."""
    called: list[str] = []
    original = SSHServerConnection.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        for name in ("_finish_userauth", "validate_public_key", "_recv_packet", "send_packet"):
            inner = getattr(self, name)

            def wrapped(*values: Any, name: str = name, inner: Any = inner, **more: Any) -> Any:
                called.append(name)
                return inner(*values, **more)

            setattr(self, name, wrapped)

    SSHServerConnection.__init__ = init  # type: ignore[method-assign]
    try:
        async with await connect(plain):
            pass
    finally:
        SSHServerConnection.__init__ = original  # type: ignore[method-assign]
    assert {"_finish_userauth", "validate_public_key", "_recv_packet", "send_packet"} <= set(called)
    assert called.count("_finish_userauth") >= 2, "called for every request, not for every user"
    (connection,) = plain.connections
    assert callable(connection._recv_data)
    assert hasattr(connection, "_transport")


async def test_no_request_is_handled_between_the_signature_check_and_the_login(plain: Plain) -> None:
    """`auth_completed` is called in the same step as the check, without an await in between."""
    source = inspect.getsource(asyncssh.auth._ServerPublicKeyAuth._start)
    assert source.count("await") == 2, source
    assert "await self.send_success()" in source
    assert (
        "await"
        not in inspect.getsource(asyncssh.connection.SSHConnection.send_userauth_success).split(
            "auth_completed"
        )[0]
    )


def test_the_options_of_the_listener_exist_and_are_complete() -> None:
    limits = LimitsConfig(4, 10, 6, 40, 4, 512, 20_000, 1_024, 4_096, 10)
    listener = SshListener(
        identities=lambda: None, admission=Admission(limits), make_session=lambda *_: None, intakes=None
    )  # type: ignore[arg-type,return-value]
    options = listener._options(KEY, None, limits)
    known = inspect.signature(SSHServerConnectionOptions.prepare).parameters
    assert options.keys() <= known.keys()
    # Every feature that is offered by default has to be in the options of the listener.
    assert {name for name in known if name.startswith("allow_") or name.endswith(("_forwarding", "_auth"))} <= options.keys() | {
        "public_key_auth"
    }  # fmt: skip


async def test_the_options_leave_one_way_to_log_in(plain: Plain) -> None:
    limits = LimitsConfig(4, 10, 6, 40, 4, 512, 20_000, 1_024, 4_096, 10)
    listener = SshListener(
        identities=lambda: None, admission=Admission(limits), make_session=lambda *_: None, intakes=None
    )  # type: ignore[arg-type,return-value]
    options = listener._options(KEY, None, limits) | {"server_factory": asyncssh.SSHServer}
    made = await SSHServerConnectionOptions.construct(**options)
    assert (made.password_auth, made.kbdint_auth, made.host_based_auth, made.gss_auth) == (
        False,
        False,
        False,
        False,
    )
    assert (made.allow_pty, made.agent_forwarding, made.x11_forwarding, made.allow_scp) == (
        False,
        False,
        False,
        False,
    )
    assert [bytes(name) for name in made.encryption_algs] == [name.encode() for name in CIPHERS]
    assert [bytes(name) for name in made.kex_algs] == [name.encode() for name in KEX_ALGORITHMS]
    assert made.compression_algs == [b"none"]


def test_asyncssh_asks_the_user_database_and_ours_answers_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(asyncssh.connection, "getpass", getpass)
    monkeypatch.setattr(asyncssh.config, "Path", Path)
    with pytest.raises((ValueError, OSError), match=r"local username|No username"):  # OSError: Python 3.13
        SSHClientConnectionOptions(config=[])
    with pytest.raises(RuntimeError, match="home directory"):
        SSHServerConnectionOptions(config=[])
    need_no_user_entry()
    SSHClientConnectionOptions(**CLOSED, username="web1", known_hosts=([], [], []))
    SSHServerConnectionOptions(config=[])

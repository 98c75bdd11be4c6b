"""Logins: invalid certificates of every kind, identity swaps, limits before and after login, and what is never offered."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from hsmd.daemon.front.ssh.listener import PROBE_AFTER_S
from hsmd.errors import Unavailable
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, public_line
from tests.support.polling import eventually
from tests.support.ssh_peer import (
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_SUCCESS,
    SshPeer,
    assert_cut_off,
    certificate,
    ssh,
    wire,
)

pytestmark = pytest.mark.timeout(60)
CERTIFIED = "cert-only"


@pytest.fixture(scope="module")
def ca(shared_daemon: Daemon) -> Any:
    """A CA that may issue certificates for CERTIFIED only."""
    ca = asyncssh.generate_private_key("ssh-ed25519")
    shared_daemon.ask(messages.ClientAdd(CERTIFIED))
    shared_daemon.ask(messages.ClientTrustCa(public_line(ca), [CERTIFIED]))
    return ca


async def log_in(
    daemon: Daemon, user: str, key: Any, shown: tuple[bytes, bytes] | None = None
) -> tuple[int, Any]:
    """Log in with a signed request; return its reply, and the identity that `WhoAmI` then reports."""
    peer = await SshPeer.connect(daemon)
    try:
        peer.sign(user, key, shown=shown)
        reply = await peer.reply()
        return reply, await peer.whoami() if reply == MSG_USERAUTH_SUCCESS else None
    finally:
        peer.close()


# --- certificates ---


async def test_a_valid_certificate_is_accepted_for_its_principal(shared_daemon: Daemon, ca: Any) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    reply, identity = await log_in(shared_daemon, CERTIFIED, key, certificate(ca, key, [CERTIFIED]))
    assert reply == MSG_USERAUTH_SUCCESS
    assert (identity.client, identity.role) == (CERTIFIED, "front-end")
    assert identity.credential == f"cert:7 {ca.get_fingerprint()}"


@pytest.mark.parametrize(
    ("principals", "changes", "rule"),
    [
        ([], {}, "not-one-principal"),
        ([CERTIFIED, WEB], {}, "not-one-principal"),
        ([CERTIFIED, CERTIFIED], {}, "not-one-principal"),
        ([""], {}, "not-one-principal"),
        (["*"], {}, "principal-mismatch"),
        ([CERTIFIED.upper()], {}, "principal-mismatch"),
        ([CERTIFIED + " "], {}, "principal-mismatch"),
        ([WEB], {}, "principal-mismatch"),
        ([CERTIFIED], {"valid_s": (-600, -1)}, "expired-certificate"),
        ([CERTIFIED], {"valid_s": (600, 1200)}, "certificate-not-yet-valid"),
        ([CERTIFIED], {"critical": [(b"force-command", String("true"))]}, "unknown-critical-option"),
        ([CERTIFIED], {"critical": [(b"verify-required", b"")]}, "unreadable certificate"),
        ([CERTIFIED], {"critical": [(b"source-address", String("192.0.2.0/24"))]}, "source-address"),
        ([CERTIFIED], {"kind": 2}, ""),
    ],
)
async def test_an_invalid_certificate_is_refused(
    shared_daemon: Daemon, ca: Any, principals: list[str], changes: dict[str, Any], rule: str
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    refused = len(shared_daemon.logged("connection.refused"))
    reply, _ = await log_in(shared_daemon, CERTIFIED, key, certificate(ca, key, principals, **changes))
    assert reply == MSG_USERAUTH_FAILURE
    if rule:
        async with asyncio.timeout(5):
            # A connection of another test may be refused in the log after this one began.
            while not any(
                entry["reason"].startswith(rule)
                for entry in shared_daemon.logged("connection.refused")[refused:]
            ):
                await asyncio.sleep(0.01)


async def test_source_addresses_are_enforced_both_ways(shared_daemon: Daemon, ca: Any) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    here = certificate(ca, key, [CERTIFIED], critical=[(b"source-address", String("127.0.0.0/8"))])
    assert (await log_in(shared_daemon, CERTIFIED, key, here))[0] == MSG_USERAUTH_SUCCESS


async def test_a_ca_certifies_only_its_own_clients(shared_daemon: Daemon, ca: Any) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    foreign = asyncssh.generate_private_key("ssh-ed25519")
    for user, by in ((WEB, ca), (OPERATOR, ca), (CERTIFIED, foreign), ("unknown", ca)):
        reply, _ = await log_in(shared_daemon, user, key, certificate(by, key, [user]))
        assert reply == MSG_USERAUTH_FAILURE, (user, by is ca)


async def test_a_certificate_needs_its_own_key(shared_daemon: Daemon, ca: Any) -> None:
    key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    assert (await log_in(shared_daemon, CERTIFIED, other, certificate(ca, key, [CERTIFIED])))[
        0
    ] == MSG_USERAUTH_FAILURE
    # The key without its certificate belongs to no client, nor does the key of the CA.
    assert (await log_in(shared_daemon, CERTIFIED, key))[0] == MSG_USERAUTH_FAILURE
    assert (await log_in(shared_daemon, CERTIFIED, ca))[0] == MSG_USERAUTH_FAILURE


RSA_ALGORITHMS = [
    (b"rsa-sha2-256", True),
    (b"rsa-sha2-512", True),
    (b"ssh-rsa", False),
    (b"ssh-rsa-sha224@ssh.com", False),
]


@pytest.fixture(scope="module")
def rsa(shared_daemon: Daemon) -> Any:
    """An RSA key of a client, which is also a CA for CERTIFIED."""
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    shared_daemon.ask(messages.ClientAdd("with-rsa", "front-end", public_line(key)))
    return key


@pytest.mark.parametrize(("algorithm", "good"), RSA_ALGORITHMS)
async def test_signatures_with_sha1_prove_nothing(
    shared_daemon: Daemon, rsa: Any, algorithm: bytes, good: bool
) -> None:
    peer = await SshPeer.connect(shared_daemon)
    peer.sign("with-rsa", rsa, signed_with=algorithm)
    assert await peer.reply() == (MSG_USERAUTH_SUCCESS if good else MSG_USERAUTH_FAILURE)
    peer.close()


@pytest.mark.parametrize(("algorithm", "good"), RSA_ALGORITHMS)
async def test_certificates_signed_with_sha1_prove_nothing(
    shared_daemon: Daemon, ca: Any, rsa: Any, algorithm: bytes, good: bool
) -> None:
    """SHA-1 collisions are feasible: the certificate might differ from what the CA has seen."""
    shared_daemon.ask(messages.ClientTrustCa(public_line(rsa), [CERTIFIED]))
    key = asyncssh.generate_private_key("ssh-ed25519")
    shown = certificate(rsa, key, [CERTIFIED], signed_with=algorithm)
    assert (await log_in(shared_daemon, CERTIFIED, key, shown))[0] == (
        MSG_USERAUTH_SUCCESS if good else MSG_USERAUTH_FAILURE
    )


async def test_a_tampered_certificate_is_refused(shared_daemon: Daemon, ca: Any) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    algorithm, blob = certificate(ca, key, [WEB])
    forged = blob.replace(String(WEB), String(CERTIFIED)[: len(String(WEB))])
    assert (await log_in(shared_daemon, WEB, key, (algorithm, forged)))[0] == MSG_USERAUTH_FAILURE


async def test_an_expired_certificate_ends_requests_and_then_the_connection(
    shared_daemon: Daemon, ca: Any
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    algorithm, blob = certificate(ca, key, [CERTIFIED], valid_s=(-60, 2))
    ends = int(time.time() + 2)
    pair = (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))
    connection = await ssh(shared_daemon, CERTIFIED, pair)
    channel = await wire(connection)
    request_id = 0
    while True:  # one request after another, until after the end of validity
        request_id += 1
        channel.write(b"")
        try:
            kind, _ = await channel.control(request_id, messages.WhoAmI())
        except (AssertionError, OSError):
            break  # closed
        assert kind == Kind.CONTROL_RESULT if time.time() < ends else True
        if kind == Kind.ERROR:
            break
    assert time.time() >= ends
    async with asyncio.timeout(4):
        await connection.wait_closed()


# --- identity swaps ---


async def test_a_key_belongs_to_one_client(shared_daemon: Daemon) -> None:
    keys = shared_daemon.keys
    assert (await log_in(shared_daemon, WEB, keys[WEB]))[1].client == WEB
    for user, key in ((WEB, keys[MAIL]), (OPERATOR, keys[WEB]), ("unknown", keys[WEB]), ("", keys[WEB])):
        assert (await log_in(shared_daemon, user, key))[0] in (MSG_USERAUTH_FAILURE, 0)


async def test_showing_a_key_proves_nothing(shared_daemon: Daemon) -> None:
    keys = shared_daemon.keys
    peer = await SshPeer.connect(shared_daemon)
    peer.query(OPERATOR, keys[OPERATOR])
    assert await peer.reply() == MSG_USERAUTH_PK_OK
    # The operator's key was shown and is acceptable; now another key signs.
    peer.sign(OPERATOR, keys[WEB])
    assert await peer.reply() == MSG_USERAUTH_FAILURE
    peer.sign(OPERATOR, keys[WEB], shown=(keys[OPERATOR].algorithm, keys[OPERATOR].public_data))
    assert await peer.reply() == MSG_USERAUTH_FAILURE
    peer.query(OPERATOR, keys[OPERATOR])
    assert await peer.reply() == MSG_USERAUTH_PK_OK
    peer.sign(WEB, keys[WEB])
    assert await peer.reply() == MSG_USERAUTH_SUCCESS
    identity = await peer.whoami()
    assert identity is not None
    assert (identity.client, identity.credential) == (WEB, keys[WEB].get_fingerprint())
    peer.close()


async def test_a_certificate_shown_first_does_not_lend_its_identity(shared_daemon: Daemon, ca: Any) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    algorithm, blob = certificate(ca, key, [CERTIFIED])
    peer = await SshPeer.connect(shared_daemon)
    peer.send(CERTIFIED, "publickey", Boolean(False), String(algorithm), String(blob))
    assert await peer.reply() == MSG_USERAUTH_PK_OK
    peer.sign(WEB, shared_daemon.keys[WEB])
    assert await peer.reply() == MSG_USERAUTH_SUCCESS
    identity = await peer.whoami()
    assert identity is not None
    assert identity.client == WEB
    peer.close()


async def test_a_signature_is_for_the_user_it_names(shared_daemon: Daemon) -> None:
    """Signed as WEB and sent as OPERATOR, and vice versa."""
    peer = await SshPeer.connect(shared_daemon)
    peer.sign(OPERATOR, shared_daemon.keys[WEB], signed_user=WEB)
    assert await peer.reply() == MSG_USERAUTH_FAILURE
    peer.sign(WEB, shared_daemon.keys[WEB], signed_user=OPERATOR)
    assert await peer.reply() == MSG_USERAUTH_FAILURE
    peer.close()


@pytest.mark.parametrize("order", ["victim last", "victim first"])
async def test_interleaved_logins_cannot_swap_identities(shared_daemon: Daemon, order: str) -> None:
    """The race of asyncssh 2.24.0: requests for two users in one write, without waiting for an answer."""
    keys = shared_daemon.keys
    for _ in range(10):
        peer = await SshPeer.connect(shared_daemon)
        requests: list[Callable[[], None]] = [
            lambda s=peer: s.sign(WEB, keys[WEB]),  # type: ignore[misc]
            lambda s=peer: s.query(OPERATOR, keys[OPERATOR]),  # type: ignore[misc]
        ]
        for request in requests if order == "victim last" else reversed(requests):
            request()
        kinds = [await peer.reply() for _ in range(1 if order == "victim last" else 2)]
        if MSG_USERAUTH_SUCCESS in kinds:
            identity = await peer.whoami()
            assert identity is None or identity.client == WEB
        peer.close()


# --- what is not offered ---


@pytest.mark.parametrize(
    "method", ["none", "password", "keyboard-interactive", "hostbased", "gssapi-with-mic"]
)
async def test_other_ways_to_log_in_are_not_offered(shared_daemon: Daemon, method: str) -> None:
    fields = {
        "password": (Boolean(False), String("secret")),
        "keyboard-interactive": (String(""), String("")),
    }
    peer = await SshPeer.connect(shared_daemon)
    peer.send(OPERATOR, method, *fields.get(method, ()))
    assert await peer.reply() == MSG_USERAUTH_FAILURE
    peer.close()


@pytest.mark.parametrize(
    "options",
    [
        {"subsystem": None, "command": None},
        {"subsystem": None, "command": "id"},
        {"subsystem": "sftp"},
        {"subsystem": "hsmd2"},
    ],
    ids=["shell", "exec", "sftp", "other subsystem"],
)
async def test_only_the_subsystem_is_offered(shared_daemon: Daemon, options: dict[str, Any]) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_session(asyncssh.SSHClientSession, encoding=None, **options)


async def test_a_terminal_is_refused(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await wire(connection, hello=False, request_pty="force", term_type="xterm")


async def test_nothing_is_forwarded(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        host, port = shared_daemon.address
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection(host, port)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("/run/x")
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "localhost", 9)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_path("/tmp/hsmd-test-forward", "/run/y")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_tun()
        channel = await wire(connection)
        request = channel.channel._make_request
        assert not await request(b"auth-agent-req@openssh.com")
        assert not await request(
            b"x11-req", Boolean(False), String("MIT-MAGIC-COOKIE-1"), String("00" * 16), b"\0" * 4
        )
        assert not await request(b"shell")
        assert not await request(b"subsystem", String("hsmd")), "a second session on the same channel"
        assert (await channel.control(1, messages.WhoAmI()))[0] == Kind.CONTROL_RESULT


async def test_environment_variables_are_not_kept(shared_daemon: Daemon) -> None:
    """asyncssh would store each of them; 24 MB of them must not take memory."""
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        before = shared_daemon.front_rss()
        value = String("x" * 30_000)
        for number in range(800):
            channel.channel._send_request(b"env", String(f"V{number}"), value)
            if number % 100 == 0:
                assert not await channel.channel._make_request(b"env", String("LAST"), String(""))
        assert (await channel.control(1, messages.WhoAmI()))[0] == Kind.CONTROL_RESULT
        assert shared_daemon.front_rss() - before < 10 << 20


async def test_the_kernel_watches_the_peers(shared_daemon: Daemon) -> None:
    """The daemon's end of a connection has a keep-alive timer of the kernel (ss -o) that runs out within seconds, not hours."""
    async with await ssh(shared_daemon, WEB) as connection:
        here = f"{connection.get_extra_info('sockname')[1]:04X}"
        there = f"{shared_daemon.address[1]:04X}"

        def watched() -> bool:
            kind, after_s = timer_of(there, here)
            return kind == "02" and after_s <= PROBE_AFTER_S

        await eventually(watched)


def timer_of(local_port: str, remote_port: str) -> tuple[str, float]:
    """The kind of timer of a TCP connection over IPv4, and when it runs out (proc_net_tcp.txt: 02 is keep-alive)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        if (local[-4:], remote[-4:]) == (local_port, remote_port):
            kind, _, ticks = timer.partition(":")
            return kind, int(ticks, 16) / os.sysconf("SC_CLK_TCK")
    return "", 0.0


# --- limits ---


async def test_login_attempts_of_every_kind_are_counted(shared_daemon: Daemon) -> None:
    for kinds in (("none",), ("publickey",), ("query",), ("none", "publickey", "query")):
        peer = await SshPeer.connect(shared_daemon)
        tries = 0
        while not peer.lost.is_set():
            kind = kinds[tries % len(kinds)]
            if kind == "publickey":
                peer.sign(OPERATOR, asyncssh.generate_private_key("ssh-ed25519"))
            elif kind == "query":
                peer.query(OPERATOR, shared_daemon.keys[OPERATOR])
            else:
                peer.send(OPERATOR, "none")
            if await peer.reply() == 0:
                break
            tries += 1
            assert tries <= 6, kinds
        assert tries >= 5  # the client's own first request counts
        peer.close()


async def test_channels_are_limited(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        channels = [await wire(connection) for _ in range(4)]
        for _ in range(3):
            with pytest.raises(asyncssh.ChannelOpenError):
                await wire(connection)
        channels[0].channel.close()
        await channels[0].closed.wait()
        assert (await (await wire(connection)).control(1, messages.WhoAmI()))[0] == Kind.CONTROL_RESULT


async def test_idle_unauthenticated_peers_do_not_prevent_logins(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon(limits={"startups": 8, "login_s": 3, "connections": 40})
    host, port = daemon.address
    began = time.monotonic()
    idle = [await asyncio.open_connection(host, port) for _ in range(60)]
    refused = sum([await _ends(reader, 0.3) for reader, _ in idle[8:]][:20])
    assert refused >= 15, "connections beyond the limit are closed at once"
    # Connections from one address do not displace each other, but end after login_s.
    reader = idle[0][0]
    async with asyncio.timeout(6):
        await reader.read()
    assert 2.0 < time.monotonic() - began < 6.0
    async with daemon.connection(WEB) as connection:
        assert (await connection.control(messages.WhoAmI(), timeout_s=5)).client == WEB
    for _, writer in idle:
        writer.close()


async def test_connections_of_one_client_are_limited(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon(limits={"connections": 20, "startups": 30})
    held = [await ssh(daemon, WEB) for _ in range(8)]
    with pytest.raises((asyncssh.Error, OSError)):
        async with await ssh(daemon, WEB) as ninth:
            await wire(ninth)
    # Other clients can still connect.
    async with daemon.connection(MAIL) as other:
        assert (await other.control(messages.WhoAmI(), timeout_s=5)).client == MAIL
    held[0].close()
    await held[0].wait_closed()
    async with daemon.connection(WEB) as again:
        assert (await again.control(messages.WhoAmI(), timeout_s=5)).client == WEB
    for connection in held:
        connection.abort()


async def _ends(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return (await reader.read(1 << 16)).replace(b"SSH-2.0-hsmd\r\n", b"") == b""
    except TimeoutError:
        return False
    except OSError:
        return True


# --- withdrawn ---


async def test_a_removed_client_is_disconnected(shared_daemon: Daemon) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with shared_daemon.connection(OPERATOR) as operator:
        await operator.control(messages.ClientAdd("brief", "front-end", public_line(key)), timeout_s=10)
        await operator.control(messages.GrantAdd("brief", "web", ["tls-server"]), timeout_s=10)
        connection = await ssh(shared_daemon, "brief", key)
        channel = await wire(connection)
        digest = shared_daemon.digests["web"]  # type: ignore[attr-defined]
        assert (await channel.use(1, digest))[0] == Kind.RESULT
        await operator.control(messages.ClientRemove("brief"), timeout_s=10)
        # Once the removal is confirmed, the client gets no signature.
        await assert_cut_off(connection, channel, digest)
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(shared_daemon, "brief", key)


async def test_a_client_that_lost_its_ca_is_disconnected(shared_daemon: Daemon) -> None:
    ca, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with shared_daemon.connection(OPERATOR) as operator:
        for name in ("briefly", "other"):
            await operator.control(messages.ClientAdd(name), timeout_s=10)
        await operator.control(messages.ClientTrustCa(public_line(ca), ["briefly", "other"]), timeout_s=10)
        algorithm, blob = certificate(ca, key, ["briefly"])
        pair = (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))
        connection = await ssh(shared_daemon, "briefly", pair)
        await operator.control(messages.ClientTrustCa(public_line(ca), ["other"]), timeout_s=10)
        async with asyncio.timeout(5):
            await connection.wait_closed()
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(shared_daemon, "briefly", pair)


async def test_a_daemon_at_its_connection_limit_is_unavailable(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon(limits={"connections": 3})
    held = [await ssh(daemon, name) for name in (WEB, MAIL, OPERATOR)]
    connection = daemon.connection(WEB)
    with pytest.raises(Unavailable):
        await connection.start()
    for each in held:
        each.abort()

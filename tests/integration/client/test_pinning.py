"""Only the pinned daemon is accepted: impostors of every kind, and nothing taken from the user's environment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.client import Connection
from hsmd.errors import ConfigurationError, HsmdError, ProtocolError, Unavailable
from hsmd.protocol.messages import WhoAmI
from tests.support.fake_daemon import CLIENT, FakeDaemon, public_line

CA = asyncssh.generate_private_key("ssh-ed25519")
OTHER_CA = asyncssh.generate_private_key("ssh-ed25519")
HOST = asyncssh.generate_private_key("ssh-ed25519")


def certificate(ca: Any = CA, principals: list[str] | None = None, kind: str = "host", **options: Any) -> Any:
    generate = ca.generate_host_certificate if kind == "host" else ca.generate_user_certificate
    return generate(HOST, "host", principals=["127.0.0.1"] if principals is None else principals, **options)


def with_certificate(made: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"server_host_keys": [(HOST, made())]}


IMPOSTORS: dict[str, tuple[bool, Callable[[], dict[str, Any]]]] = {
    "another host key": (False, lambda: {"server_host_keys": [asyncssh.generate_private_key("ssh-ed25519")]}),
    "another host key where a CA is pinned": (True, lambda: {"server_host_keys": [HOST]}),
    "the CA's own key as host key": (True, lambda: {"server_host_keys": [CA]}),
    "certificate of another CA": (True, with_certificate(lambda: certificate(OTHER_CA))),
    "certificate of any CA where a key is pinned": (False, with_certificate(lambda: certificate(OTHER_CA))),
    "certificate for another host": (True, with_certificate(lambda: certificate(principals=["127.0.0.2"]))),
    "certificate without principals": (True, with_certificate(lambda: certificate(principals=[]))),
    "expired certificate": (
        True,
        with_certificate(lambda: certificate(valid_after="20200101", valid_before="20200102")),
    ),
    "certificate not valid yet": (
        True,
        with_certificate(lambda: certificate(valid_after="20900101", valid_before="20900102")),
    ),
    "user certificate as host certificate": (True, with_certificate(lambda: certificate(kind="user"))),
    "RSA host key": (
        False,
        lambda: {"server_host_keys": [asyncssh.generate_private_key("ssh-rsa", key_size=2048)]},
    ),
    "ECDSA host key": (
        False,
        lambda: {"server_host_keys": [asyncssh.generate_private_key("ecdsa-sha2-nistp256")]},
    ),
    "old key exchange only": (False, lambda: {"kex_algs": ["diffie-hellman-group14-sha256"]}),
    "no AEAD cipher": (False, lambda: {"encryption_algs": ["aes256-ctr"], "mac_algs": ["hmac-sha2-256"]}),
    "other AEAD cipher": (False, lambda: {"encryption_algs": ["chacha20-poly1305@openssh.com"]}),
    "compression demanded": (False, lambda: {"compression_algs": ["zlib@openssh.com"]}),
}


@pytest.mark.parametrize("name", IMPOSTORS)
async def test_impostors_are_refused(name: str, tmp_path: Path) -> None:
    pins_ca, options = IMPOSTORS[name]
    daemon = await FakeDaemon(tmp_path, **options()).start()
    pin = f"cert-authority {public_line(CA)}" if pins_ca else public_line(daemon.host_key)
    with pytest.raises(ProtocolError):
        await Connection(daemon.endpoint(host_keys=(pin,))).start()
    assert daemon.logins == 0
    assert daemon.sessions == []
    await daemon.stop()


async def test_pinned_host_key_connects(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    spare = public_line(asyncssh.generate_private_key("ssh-ed25519"))
    async with Connection(
        daemon.endpoint(host_keys=(spare, public_line(daemon.host_key) + " comment"))
    ) as connection:
        assert (await connection.control(WhoAmI(), timeout_s=2)).client == CLIENT
    await daemon.stop()


async def test_certificate_of_the_pinned_ca_connects(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path, server_host_keys=[(HOST, certificate())]).start()
    async with Connection(daemon.endpoint(host_keys=(f"cert-authority {public_line(CA)}",))) as connection:
        assert connection.available
    await daemon.stop()


async def test_a_pinned_connection_does_not_follow_a_changed_host_key(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    connection = Connection(daemon.endpoint())
    await connection.start()
    await daemon.stop()
    pinned = daemon.host_key.get_fingerprint()
    daemon.host_key = asyncssh.generate_private_key("ssh-ed25519")
    await daemon.start()
    async with asyncio.timeout(5):
        while not isinstance(connection.problem, ProtocolError):
            await asyncio.sleep(0.01)
    found = daemon.host_key.get_fingerprint()
    assert f"does not have the pinned host key: it has {found}, pinned is {pinned}" in connection.problem.text
    assert daemon.logins == 1
    await connection.close()
    await daemon.stop()


async def test_nothing_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that trusts the impostor, redirects the host, and offers keys and an agent has no effect."""
    daemon = await FakeDaemon(tmp_path).start()
    home = tmp_path / "home"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (ssh / "known_hosts").write_text(f"* {public_line(daemon.host_key)}\n")
    (ssh / "config").write_text(
        f"Host *\n  User another\n  Port {daemon.port}\n  StrictHostKeyChecking no\n  ProxyCommand false\n"
    )
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(ssh / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))
    other = public_line(asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(ProtocolError):
        await Connection(daemon.endpoint(host_keys=(other,))).start()
    async with Connection(daemon.endpoint()) as connection:
        assert connection.available
    await daemon.stop()


# --- the client's identity ---


async def test_an_unknown_identity_is_reported(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    other = tmp_path / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(other)
    other.chmod(0o600)
    with pytest.raises(Unavailable, match="does not accept the identity of web-1"):
        await Connection(daemon.endpoint(identity_file=other)).start()
    with pytest.raises(Unavailable, match="does not accept the identity of web-2"):
        await Connection(daemon.endpoint(user="web-2")).start()
    await daemon.stop()


async def test_user_certificate_is_offered(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    ca = asyncssh.generate_private_key("ssh-ed25519")
    identity, public = tmp_path / "id", asyncssh.generate_private_key("ssh-ed25519")
    public.write_private_key(identity)
    identity.chmod(0o600)
    made = ca.generate_user_certificate(public, "web-1", principals=[CLIENT])
    made.write_certificate(tmp_path / "id-cert.pub")
    daemon.client_key = ca
    async with Connection(
        daemon.endpoint(identity_file=identity, certificate_file=tmp_path / "id-cert.pub")
    ) as connection:
        assert connection.available
    await daemon.stop()


def exposed(path: Path) -> None:
    path.chmod(0o640)


def absent(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_text("garbage")


def encrypted(path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(path, "pkcs8-pem", passphrase="secret")


def ecdsa(path: Path) -> None:
    asyncssh.generate_private_key("ecdsa-sha2-nistp256").write_private_key(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (exposed, "chmod 600"),
        (absent, "No such file"),
        (garbage, "not a readable"),
        (encrypted, "no passphrase"),
        (ecdsa, "not an Ed25519 key"),
        (directory, "not a regular file"),
    ],
)
async def test_unusable_identity_files_are_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    spoil(daemon.identity)
    with pytest.raises(ConfigurationError, match=message):
        await Connection(daemon.endpoint()).start()
    assert daemon.connections == []
    await daemon.stop()


async def test_a_server_without_the_subsystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    monkeypatch.setattr("hsmd.client.ssh_transport.SUBSYSTEM", "sftp")
    with pytest.raises(Unavailable, match="subsystem"):
        await Connection(daemon.endpoint()).start()
    await daemon.stop()


async def test_a_server_that_sends_nothing_times_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hsmd.client.ssh_transport.LOGIN_S", 0.3)
    connected: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    endpoint = FakeDaemon(tmp_path).endpoint(port=server.sockets[0].getsockname()[1])
    with pytest.raises(HsmdError, match="did not complete the login"):
        await Connection(endpoint).start()
    server.close()
    async with asyncio.timeout(2):
        await connected[0].wait_closed()

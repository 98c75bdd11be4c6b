"""Front end and daemon communicate over a dedicated network, through a channel that is encrypted and authenticates both."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hsmd.client import Client, Endpoint, parse_address
from hsmd.errors import ProtocolError, Unavailable
from hsmd.protocol.messages import KeyShow
from hsmd.purposes import Purpose
from tests.support import network as networks
from tests.support.processes import hsmd, program, run
from tests.support.site import CLIENT, Site

# --- the dedicated network ---


@pytest.mark.parametrize("address", ["0.0.0.0:7440", "[::]:7440"])
def test_a_wildcard_address_is_refused_unless_allowed(site: Site, tmp_path: Path, address: str) -> None:
    text = site.daemon.config.read_text()
    config = site.daemon.directory / "wildcard.toml"
    config.write_text(text.replace(f'"{site.network.listen}"', f'"{address}"'))
    refused = run(hsmd("serve", "--config", config))
    assert refused.returncode != 0
    assert "would listen on every network" in refused.stderr and "allow_wildcard" in refused.stderr
    # With the option it starts until it opens the audit log, which the running daemon has locked.
    config.write_text(config.read_text().replace("#allow_wildcard = false", "allow_wildcard = true"))
    allowed = run(hsmd("serve", "--config", config))
    assert "every network" not in allowed.stderr
    assert "audit" in allowed.stderr


def test_the_daemon_listens_only_on_its_named_address(site: Site) -> None:
    """On the daemon's host, its port is closed on every other address."""
    host, _, port = site.network.listen.rpartition(":")
    probe = (
        "import socket, sys\n"
        "for host in sys.argv[2:]:\n"
        "    with socket.socket() as probe:\n"
        "        print(probe.connect_ex((host, int(sys.argv[1]))))\n"
    )
    done = run(
        [*site.network.daemon_prefix, sys.executable, "-c", probe, port, host, "127.0.0.2", "127.0.0.3"]
    )
    named, *others = (int(line) for line in done.stdout.split())
    assert named == 0
    assert 0 not in others and len(others) == 2


def test_tls_clients_reach_nginx_but_not_the_daemon(site: Site) -> None:
    """Clients in a separate network complete handshakes, and cannot connect to the daemon's address.

    Without permission to create networks, the two sides of the front end are two loopback addresses.
    """
    with public_network() as (address, prefix):
        nginx = site.second_nginx("public", site.served[:1], host=address)
        try:
            client = (
                "import socket, sys\n"
                "with socket.socket() as probe:\n"
                "    probe.settimeout(1)\n"
                "    print(probe.connect_ex((sys.argv[1], int(sys.argv[2]))))\n"
            )
            reached = run([*prefix, sys.executable, "-c", client, address, str(nginx.port)])
            assert reached.stdout.strip() == "0", reached
            handshake = run(
                [
                    *prefix,
                    program("curl"),
                    "--silent",
                    "--show-error",
                    "--cacert",
                    site.authority.file,
                    "--resolve",
                    f"p256.test:{nginx.port}:{address}",
                    f"https://p256.test:{nginx.port}/",
                ]
            )
            assert handshake.stdout == "p256.test", handshake
            daemon, _, daemon_port = site.network.listen.rpartition(":")
            for unreachable in [address, daemon] if prefix else [address]:
                reached = run([*prefix, sys.executable, "-c", client, unreachable, daemon_port])
                assert reached.stdout.strip() not in ("", "0"), reached
        finally:
            nginx.stop()


@contextmanager
def public_network() -> Iterator[tuple[str, list[str]]]:
    """The front end's address on a network for TLS clients, and the command prefix that runs a command in it."""
    if not networks.may_make_namespaces():
        yield "127.0.0.5", []
        return
    namespace = networks.Namespace()
    try:
        yield namespace.outer, namespace.prefix
    finally:
        namespace.close()


# --- the channel ---


def test_traffic_between_front_end_and_daemon_is_encrypted(site: Site) -> None:
    """A tap on the dedicated network sees an SSH connection, but neither hsmd's protocol, nor the key, nor an answer."""
    with Tap(site.network.address) as tap:
        identity = site.agent.directory / "agent_ed25519"
        endpoint = Endpoint("127.0.0.1", tap.port, (site.daemon.host_key,), CLIENT, identity)
        key = bytes.fromhex(site.keys["p256"].digest)
        data = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(32))
        with Client.connect(endpoint) as client:
            answer = client.use_key(key, Purpose.TLS13_SERVER, 0x0403, data)
            assert client.control(KeyShow("p256")).digest == key.hex()
    seen = bytes(tap.seen)
    assert seen.startswith(b"SSH-2.0-") and seen.count(b"SSH-2.0-") == 2
    assert len(seen) > len(data) + len(answer)
    for secret in (b"HSMD", key, answer, data[-32:], b"server CertificateVerify", b"p256"):
        assert secret not in seen


def test_a_front_end_refuses_a_daemon_with_another_host_key(site: Site) -> None:
    other = run(
        [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(site.directory / "other_host_key")]
    )
    assert other.returncode == 0, other.stderr
    line = " ".join((site.directory / "other_host_key.pub").read_text().split()[:2])
    host, port = parse_address(site.network.address)
    with pytest.raises(ProtocolError, match="does not have the pinned host key"):
        Client.connect(Endpoint(host, port, (line,), CLIENT, site.agent.directory / "agent_ed25519"))


def test_the_daemon_refuses_an_unknown_key(site: Site) -> None:
    unknown = site.directory / "unknown_ed25519"
    assert run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(unknown)]).returncode == 0
    with pytest.raises(Unavailable, match="does not accept the identity"):
        Client.connect(site.daemon.endpoint(CLIENT, unknown))
    operator = site.daemon.directory / "operator_ed25519"
    with pytest.raises(Unavailable, match="does not accept the identity"):
        Client.connect(site.daemon.endpoint(CLIENT, operator))


class Tap:
    """Forwards one TCP connection and records all bytes of both directions."""

    def __init__(self, address: str) -> None:
        self._daemon = parse_address(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.seen = bytearray()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join(5)

    def _run(self) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.create_connection(self._daemon)
            self._open += [near, far]
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join(5)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self.seen += data
                sink.sendall(data)

"""The promises of keyless TLS, row by row: each test is named after the row it shows on real parts."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.client import AgentEndpoint, Client, Endpoint, parse_address
from hsmd.errors import ProtocolError, Unavailable
from hsmd.protocol.messages import CertificateExport, GrantAdd, KeyList, KeyShow
from hsmd.purposes import Purpose
from tests.e2e import network as networks
from tests.e2e.authority import private_pem
from tests.e2e.front_end import HOST, Agent, Nginx, Served
from tests.e2e.processes import hsmd, run, wait_until
from tests.e2e.site import CLIENT, PEM_HOST, KeyPlan, Site
from tests.e2e.tls_client import (
    dumped_messages,
    dumped_premaster,
    dumped_signature,
    sha256,
)
from tests.e2e.tools import s_client, s_client_try

RSA_KEY_EXCHANGE = "AES128-GCM-SHA256"


# --- K1: RSA key exchange ---


def test_k1_the_premaster_secret_is_decrypted_in_the_token(site: Site) -> None:
    """With a key that we know: what the front end passed on is what the client sent, what came back is what is in it."""
    private = rsa.generate_private_key(65537, 2048)
    plan = KeyPlan("k1", "rsa-2048", ("tls12-rsa-premaster",), decrypts=True)
    import_key(site, plan, private_pem(private))
    nginx = second_nginx(site, "k1", [Served(plan.host, *site.agent.export(plan.name))])
    try:
        since = site.daemon.log_size
        shown = s_client(nginx.port, plan.host, site.authority.file, "1.2", "-cipher", RSA_KEY_EXCHANGE)
    finally:
        nginx.stop()
    assert shown.cipher == RSA_KEY_EXCHANGE
    encrypted = dumped_premaster(shown.dump)
    premaster = private.decrypt(encrypted, padding.PKCS1v15())
    assert len(premaster) == 48
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == plan.name)
    assert (use.purpose, use.asked, use.answer) == ("tls12-rsa-premaster", sha256(encrypted), sha256(premaster))


# --- K3: signatures ---


@pytest.mark.parametrize(
    ("key", "version", "sigalgs", "scheme"),
    [
        ("rsa", "1.2", "RSA+SHA256", "0401"),
        ("rsa", "1.2", "RSA+SHA384", "0501"),
        ("rsa", "1.2", "RSA+SHA512", "0601"),
        ("rsa", "1.2", "rsa_pss_rsae_sha256", "0804"),
        ("rsa", "1.3", "rsa_pss_rsae_sha256", "0804"),
        ("rsa", "1.3", "rsa_pss_rsae_sha384", "0805"),
        ("rsa", "1.3", "rsa_pss_rsae_sha512", "0806"),
        ("p256", "1.2", "ECDSA+SHA256", "0403"),
        ("p256", "1.3", "ECDSA+SHA256", "0403"),
        ("p384", "1.2", "ECDSA+SHA384", "0503"),
        ("p384", "1.3", "ECDSA+SHA384", "0503"),
        ("p521", "1.2", "ECDSA+SHA512", "0603"),
        ("p521", "1.3", "ECDSA+SHA512", "0603"),
        ("ed25519", "1.2", "ed25519", "0807"),
        ("ed25519", "1.3", "ed25519", "0807"),
    ],
)
def test_k3_signatures_are_made_in_the_token(site: Site, key: str, version: str, sigalgs: str, scheme: str) -> None:
    """Every scheme, in both versions it exists in; the authority's own signature algorithm is offered too."""
    since = site.daemon.log_size
    offered = sigalgs if "ECDSA+SHA256" in sigalgs else f"{sigalgs}:ECDSA+SHA256"
    shown = s_client(site.nginx.port, f"{key}.test", site.authority.file, version, "-sigalgs", offered)
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == key)
    assert (use.purpose, use.scheme) == (f"tls{version.replace('.', '')}-server", scheme)
    assert use.answer == sha256(dumped_signature(shown.dump))


# --- K4: the dedicated network ---


@pytest.mark.parametrize("address", ["0.0.0.0:7440", "[::]:7440"])
def test_k4_a_wildcard_address_is_refused_unless_told_so(site: Site, tmp_path: Path, address: str) -> None:
    text = site.daemon.config.read_text()
    config = site.daemon.directory / "wildcard.toml"
    config.write_text(text.replace(f'"{site.network.listen}"', f'"{address}"'))
    refused = run(hsmd("serve", "--config", config))
    assert refused.returncode != 0
    assert "would listen on every network" in refused.stderr and "allow_wildcard" in refused.stderr
    # Told so, it gets as far as the audit log, which the running daemon holds.
    config.write_text(config.read_text().replace("#allow_wildcard = false", "allow_wildcard = true"))
    told = run(hsmd("serve", "--config", config))
    assert "every network" not in told.stderr
    assert "audit" in told.stderr


def test_k4_the_daemon_listens_on_its_named_address_only(site: Site) -> None:
    """On the daemon's own host, nothing else answers at its port."""
    host, _, port = site.network.listen.rpartition(":")
    probe = (
        "import socket, sys\n"
        "for host in sys.argv[2:]:\n"
        "    with socket.socket() as probe:\n"
        "        print(probe.connect_ex((host, int(sys.argv[1]))))\n"
    )
    done = run([*site.network.daemon_prefix, "python3", "-c", probe, port, host, "127.0.0.2", "127.0.0.3"])
    named, *others = (int(line) for line in done.stdout.split())
    assert named == 0
    assert 0 not in others and len(others) == 2


def test_k4_tls_clients_reach_nginx_but_not_the_daemon(site: Site) -> None:
    """Clients in a network of their own complete handshakes; the daemon's address leads them nowhere.

    Without the right to make networks the two sides of the front end are two addresses of loopback.
    """
    with public_network() as (address, prefix):
        nginx = second_nginx(site, "public", site.served[:1], host=address)
        try:
            client = (
                "import socket, sys\n"
                "with socket.socket() as probe:\n"
                "    probe.settimeout(1)\n"
                "    print(probe.connect_ex((sys.argv[1], int(sys.argv[2]))))\n"
            )
            reached = run([*prefix, "python3", "-c", client, address, str(nginx.port)])
            assert reached.stdout.strip() == "0", reached
            handshake = run(
                [*prefix, "curl", "--silent", "--show-error", "--cacert", site.authority.file,
                 "--resolve", f"p256.test:{nginx.port}:{address}", f"https://p256.test:{nginx.port}/"]
            )  # fmt: skip
            assert handshake.stdout == "p256.test", handshake
            if prefix:
                host, _, port = site.network.listen.rpartition(":")
                assert run([*prefix, "python3", "-c", client, host, port]).stdout.strip() != "0"
            for _, _, port in [site.network.listen.rpartition(":")]:
                assert run([*prefix, "python3", "-c", client, address, port]).stdout.strip() != "0"
        finally:
            nginx.stop()


@contextmanager
def public_network() -> Iterator[tuple[str, list[str]]]:
    """The front end's address on a network for TLS clients, and how to run a command there."""
    if not networks.may_make_namespaces():
        yield "127.0.0.5", []
        return
    namespace = networks.Namespace()
    try:
        yield namespace.outer, namespace.prefix
    finally:
        namespace.close()


# --- K5: the channel ---


def test_k5_what_passes_between_front_end_and_daemon_is_encrypted(site: Site) -> None:
    """A tap on the dedicated network sees an SSH connection, and neither our protocol, nor which key, nor an answer."""
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


def test_k5_a_front_end_refuses_a_daemon_with_another_host_key(site: Site) -> None:
    other = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(site.directory / "stranger_host")])
    assert other.returncode == 0, other.stderr
    line = " ".join((site.directory / "stranger_host.pub").read_text().split()[:2])
    host, port = parse_address(site.network.address)
    with pytest.raises(ProtocolError, match="not the daemon that is pinned"):
        Client.connect(Endpoint(host, port, (line,), CLIENT, site.agent.directory / "agent_ed25519"))


def test_k5_the_daemon_refuses_who_comes_with_a_key_it_does_not_know(site: Site) -> None:
    stranger = site.directory / "stranger"
    assert run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)]).returncode == 0
    with pytest.raises(Unavailable, match="does not accept the identity"):
        Client.connect(site.daemon.endpoint(CLIENT, stranger))
    operator = site.daemon.directory / "operator_ed25519"
    with pytest.raises(Unavailable, match="does not accept the identity"):
        Client.connect(site.daemon.endpoint(CLIENT, operator))


class Tap:
    """Forwards one TCP connection and keeps all that passes, both ways."""

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


# --- K9: the certificate on the front end ---


def test_k9_the_certificate_is_stored_on_the_front_end(site: Site) -> None:
    """nginx serves the file that is there; a renewed one is in force after a reload, and the daemon is not asked for it."""
    chain, key = site.agent.export("p256")
    directory = site.directory / "k9"
    directory.mkdir(exist_ok=True)
    own = directory / "chain.pem"
    own.write_text(chain.read_text())
    nginx = second_nginx(site, "k9", [Served("p256.test", own, key)])
    try:
        before = x509.load_pem_x509_certificate(own.read_bytes())
        assert served_serial(site, nginx) == before.serial_number
        own.write_text(site.authority.issue(load_der_public_key(site.keys["p256"].public_key), "p256.test"))
        renewed = x509.load_pem_x509_certificate(own.read_bytes())
        nginx.reload()
        wait_until(lambda: served_serial(site, nginx) == renewed.serial_number, "the renewed certificate is served")
        assert site.handshake("p256.test", nginx=nginx).seconds < 5
        stored = site.daemon.ask(CertificateExport("p256")).pem
        assert x509.load_pem_x509_certificate(stored.encode()).serial_number == before.serial_number
    finally:
        nginx.stop()


def served_serial(site: Site, nginx: Nginx) -> int:
    text = s_client(nginx.port, "p256.test", site.authority.file, "1.3").dump
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", text, re.DOTALL)
    assert pem is not None
    return x509.load_pem_x509_certificate(pem[0].encode()).serial_number


# --- K12: one key, many front ends ---


def test_k12_one_key_serves_two_front_ends(site: Site) -> None:
    """Two agents with identities of their own, each with an nginx; the log tells the two apart."""
    other = Agent(site.directory / "agent-web2", site.daemon, "web2")
    site.daemon.ask(GrantAdd("web2", "p256", ["tls-server"]))
    nginx = None
    try:
        other.start()
        served = Served("p256.test", *other.export("p256"))
        nginx = Nginx(site.directory / "nginx-web2", other.openssl(site.module), [served], workers=1)
        nginx.start()
        since = site.daemon.log_size
        proofs = [site.handshake("p256.test", "1.2").proof, site.handshake("p256.test", "1.2", nginx=nginx).proof]
        for client, proof in zip((CLIENT, "web2"), proofs, strict=True):
            assert proof is not None
            use = site.daemon.wait_for_use(since, lambda use, client=client: use.client == client)  # type: ignore[misc]
            assert (use.key_name, use.asked, use.answer) == ("p256", proof.asked, proof.answer)
        with Client.connect(AgentEndpoint(other.socket)) as seen:
            assert [key.name for key in seen.control(KeyList()).keys] == ["p256"]
    finally:
        if nginx is not None:
            nginx.stop()
        other.stop()
        site.daemon.command("client", "remove", "web2")


# --- K17: keys of TLS clients ---


@pytest.mark.parametrize("key_type", ["p-256", "rsa-2048"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_k17_the_key_of_a_tls_client_can_be_in_the_token(site: Site, version: str, key_type: str) -> None:
    """A server that demands client certificates is satisfied by s_client with a key reference."""
    plan = KeyPlan(f"user-{key_type}", key_type, ("tls-client",))
    if plan.name not in {key.name for key in site.daemon.ask(KeyList()).keys}:
        site.make_key(plan)
    chain, key = site.agent.export(plan.name)
    extra = f"ssl_client_certificate {site.authority.file}; ssl_verify_client on;"
    pem = next(served for served in site.served if served.name == PEM_HOST)
    nginx = second_nginx(site, f"k17-{version}-{key_type}", [pem], extra=extra)
    try:
        _, text, _ = s_client_try(nginx.port, PEM_HOST, site.authority.file, version)
        assert f"\n{PEM_HOST}" not in text  # the server does insist
        since = site.daemon.log_size
        shown = s_client(nginx.port, PEM_HOST, site.authority.file, version, "-cert", chain, "-key", key,
                         OPENSSL_CONF=str(site.openssl))  # fmt: skip
    finally:
        nginx.stop()
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == plan.name)
    assert use.purpose == f"tls{version.replace('.', '')}-client"
    own = [message for direction, message in directed(shown.dump) if direction == ">>>"]
    assert use.answer == sha256(own[0][4:])


def directed(dump: str) -> list[tuple[str, bytes]]:
    """The CertificateVerify messages with the direction they went."""
    found = []
    for part in re.split(r"^(?=[<>]{3} )", dump, flags=re.MULTILINE):
        message = dumped_messages(part).get("CertificateVerify")
        if message is not None:
            found.append((part[:3], message))
    return found


# --- helpers ---


def import_key(site: Site, plan: KeyPlan, pem: bytes) -> None:
    """Put a private key into the token with `hsmd key import`, on the token's host, and remove the file."""
    path = site.daemon.directory / f"{plan.name}.pem"
    path.touch(mode=0o600)
    path.write_bytes(pem)
    purposes = [word for purpose in plan.purposes for word in ("--purpose", purpose)]
    try:
        site.daemon.command("key", "import", plan.name, path, "--config", site.daemon.config, *purposes)
    finally:
        path.unlink()
    site.certify(site.daemon.ask(KeyShow(plan.name)), plan)


def second_nginx(site: Site, name: str, served: list[Served], *, host: str = HOST, extra: str = "") -> Nginx:
    """A further nginx with one worker, running."""
    nginx = Nginx(site.directory / f"nginx-{name}", site.openssl, served, workers=1, host=host, extra=extra)
    nginx.start()
    return nginx

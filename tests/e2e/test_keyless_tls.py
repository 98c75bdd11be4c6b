"""The main properties of keyless TLS, each shown with real programs; others are in test_channel.py and test_memory.py."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.client import AgentEndpoint, Client
from hsmd.protocol.messages import CertificateExport, GrantAdd, KeyList
from tests.support.authority import private_pem
from tests.support.front_end import Agent, Nginx, Served
from tests.support.polling import wait_until
from tests.support.site import CLIENT, PEM_HOST, KeyPlan, Site
from tests.support.tls_client import dumped_messages, dumped_premaster, dumped_signature, sha256
from tests.support.tls_tools import s_client, s_client_try

RSA_KEY_EXCHANGE = "AES128-GCM-SHA256"


# --- RSA key exchange ---


def test_the_premaster_secret_is_decrypted_in_the_token(site: Site) -> None:
    """With a known key: the front end forwarded what the client sent, and the daemon returned its plaintext."""
    private = rsa.generate_private_key(65537, 2048)
    plan = KeyPlan("k1", "rsa-2048", ("tls12-rsa-premaster",), decrypts=True)
    site.import_key(plan, private_pem(private))
    nginx = site.second_nginx("k1", [Served(plan.host, *site.agent.export(plan.name))])
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
    assert (use.purpose, use.asked, use.answer) == (
        "tls12-rsa-premaster",
        sha256(encrypted),
        sha256(premaster),
    )


# --- signatures ---


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
def test_signatures_are_made_in_the_token(
    site: Site, key: str, version: str, sigalgs: str, scheme: str
) -> None:
    """Every scheme, in each TLS version that has it; the signature algorithm of the certificate is offered too."""
    since = site.daemon.log_size
    offered = sigalgs if "ECDSA+SHA256" in sigalgs else f"{sigalgs}:ECDSA+SHA256"
    shown = s_client(site.nginx.port, f"{key}.test", site.authority.file, version, "-sigalgs", offered)
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == key)
    assert (use.purpose, use.scheme) == (f"tls{version.replace('.', '')}-server", scheme)
    assert use.answer == sha256(dumped_signature(shown.dump))


# --- the certificate on the front end ---


def test_the_certificate_is_stored_on_the_front_end(site: Site) -> None:
    """nginx serves its local file; a renewed one is served after a reload, and the daemon is not involved."""
    chain, key = site.agent.export("p256")
    directory = site.directory / "k9"
    directory.mkdir(exist_ok=True)
    own = directory / "chain.pem"
    own.write_text(chain.read_text())
    nginx = site.second_nginx("k9", [Served("p256.test", own, key)])
    try:
        before = x509.load_pem_x509_certificate(own.read_bytes())
        assert served_serial(site, nginx) == before.serial_number
        own.write_text(site.authority.issue(load_der_public_key(site.keys["p256"].public_key), "p256.test"))
        renewed = x509.load_pem_x509_certificate(own.read_bytes())
        nginx.reload()
        wait_until(
            lambda: served_serial(site, nginx) == renewed.serial_number, "the renewed certificate is served"
        )
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


# --- one key, many front ends ---


def test_one_key_serves_two_front_ends(site: Site) -> None:
    """Two agents with different identities, each with an nginx; the log distinguishes them."""
    other = Agent(site.directory / "agent-web2", site.daemon, "web2")
    site.daemon.ask(GrantAdd("web2", "p256", ["tls-server"]))
    nginx = None
    try:
        other.start()
        served = Served("p256.test", *other.export("p256"))
        nginx = Nginx(site.directory / "nginx-web2", other.openssl(site.module), [served], workers=1)
        nginx.start()
        since = site.daemon.log_size
        proofs = [
            site.handshake("p256.test", "1.2").proof,
            site.handshake("p256.test", "1.2", nginx=nginx).proof,
        ]
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


# --- keys of TLS clients ---


@pytest.mark.parametrize("key_type", ["p-256", "rsa-2048"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_key_of_a_tls_client_can_be_in_the_token(site: Site, version: str, key_type: str) -> None:
    """A server that requires client certificates accepts s_client with a key reference."""
    plan = KeyPlan(f"user-{key_type}", key_type, ("tls-client",))
    if plan.name not in {key.name for key in site.daemon.ask(KeyList()).keys}:
        site.make_key(plan)
    chain, key = site.agent.export(plan.name)
    extra = f"ssl_client_certificate {site.authority.file}; ssl_verify_client on;"
    pem = next(served for served in site.served if served.name == PEM_HOST)
    nginx = site.second_nginx(f"k17-{version}-{key_type}", [pem], extra=extra)
    try:
        _, text, _ = s_client_try(nginx.port, PEM_HOST, site.authority.file, version)
        assert f"\n{PEM_HOST}" not in text  # the server requires a certificate
        since = site.daemon.log_size
        shown = s_client(
            nginx.port,
            PEM_HOST,
            site.authority.file,
            version,
            "-cert",
            chain,
            "-key",
            key,
            OPENSSL_CONF=str(site.openssl),
        )
    finally:
        nginx.stop()
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == plan.name)
    assert use.purpose == f"tls{version.replace('.', '')}-client"
    own = [message for direction, message in directed(shown.dump) if direction == ">>>"]
    assert use.answer == sha256(own[0][4:])


def directed(dump: str) -> list[tuple[str, bytes]]:
    """(direction, message) of the CertificateVerify messages."""
    found = []
    for part in re.split(r"^(?=[<>]{3} )", dump, flags=re.MULTILINE):
        message = dumped_messages(part).get("CertificateVerify")
        if message is not None:
            found.append((part[:3], message))
    return found

"""Six kinds of handshakes, with the distribution's nginx, `openssl s_client` and curl.

What a client saw on the wire is compared with the audit log, which must contain exactly these signatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.support.installed_daemon import Use
from tests.support.site import CLIENT, Site
from tests.support.tls_client import dumped_messages, dumped_premaster, dumped_signature, sha256
from tests.support.tls_tools import curl, s_client


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of handshake, and what the audit log records of it."""

    name: str
    key: str
    version: str
    ciphers: str
    purpose: str
    scheme: str


KINDS = (
    Kind("tls13-ecdsa-p256", "p256", "1.3", "", "tls13-server", "0403"),
    Kind("tls13-rsa-pss", "rsa", "1.3", "", "tls13-server", "0804"),
    Kind("tls13-ed25519", "ed25519", "1.3", "", "tls13-server", "0807"),
    Kind("tls12-ecdhe-ecdsa", "p256", "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "tls12-server", "0403"),
    Kind("tls12-ecdhe-rsa", "rsa", "1.2", "ECDHE-RSA-AES128-GCM-SHA256", "tls12-server", "0804"),
    Kind("tls12-rsa-kx", "rsakx", "1.2", "AES128-GCM-SHA256", "tls12-rsa-premaster", "0000"),
)


def cipher_options(kind: Kind) -> list[str]:
    return ["-cipher", kind.ciphers] if kind.ciphers else []


def the_only_use(site: Site, since: int, kind: Kind) -> Use:
    """The only attempt after `since`, which must be of this kind and performed for the front end."""
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == kind.key)
    assert len(site.daemon.uses(since)) == 1
    assert (use.client, use.purpose, use.scheme, use.result) == (
        CLIENT,
        kind.purpose,
        kind.scheme,
        "performed",
    )
    return use


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_s_client_completes_the_handshake_and_the_log_matches_the_wire(site: Site, kind: Kind) -> None:
    since = site.daemon.log_size
    shown = s_client(
        site.nginx.port, f"{kind.key}.test", site.authority.file, kind.version, *cipher_options(kind)
    )
    assert shown.version == f"TLSv{kind.version}"
    assert not kind.ciphers or shown.cipher == kind.ciphers
    use = the_only_use(site, since, kind)
    if kind.purpose == "tls12-rsa-premaster":
        assert use.asked == sha256(dumped_premaster(shown.dump))
        assert "ServerKeyExchange" not in dumped_messages(shown.dump)
        assert use.answer
    else:
        assert use.answer == sha256(dumped_signature(shown.dump))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_curl_gets_the_page(site: Site, kind: Kind) -> None:
    since = site.daemon.log_size
    assert (
        curl(site.nginx.port, f"{kind.key}.test", site.authority.file, kind.version, kind.ciphers)
        == f"{kind.key}.test"
    )
    the_only_use(site, since, kind)


@pytest.mark.parametrize("key", ["p256", "rsa"])
def test_the_log_matches_what_a_tls_12_client_saw_signed(site: Site, key: str) -> None:
    """The tests' own TLS client knows both the signed bytes and the signature."""
    since = site.daemon.log_size
    proof = site.handshake(f"{key}.test", "1.2").proof
    assert proof is not None
    use = site.daemon.wait_for_use(since, lambda use: use.key_name == key)
    assert (use.asked, use.answer) == (proof.asked, proof.answer)


def test_a_page_needs_the_right_authority(site: Site) -> None:
    """Shows that the checks above fail for a certificate of another issuer."""
    with pytest.raises(AssertionError, match=r"(?i)verif|self-signed|unable to get"):
        s_client(site.nginx.port, "p256.test", site.served[0].chain, "1.3")


def test_the_whole_log_is_intact(site: Site) -> None:
    site.handshake("p256.test")
    site.daemon.verify()

"""Certificate chains before they are stored: accepted, refused with a reason, or accepted with a warning."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmd.algorithms import KeyType
from hsmd.daemon.pki import CertificateFacts, check_chain
from hsmd.errors import BadRequest

DAY = timedelta(days=1)


class Authority:
    """Issues leaf, intermediate and root, each with its own key."""

    def __init__(self, key: Callable[..., Any], now: datetime) -> None:
        self.key, self.now = key, now
        self.root = self.issue("root", 1, "root", 1, ca=True, days=3650)
        self.intermediate = self.issue("intermediate", 2, "root", 1, ca=True, days=365)
        self.leaf = self.issue("leaf", 0, "intermediate", 2)

    def issue(
        self,
        name: str,
        number: int,
        issuer: str,
        by: int,
        *,
        ca: bool = False,
        days: int = 90,
        begin: int = 1,
        dns: str = "site.example",
        usage: dict[str, bool] | None = None,
    ) -> str:
        """A certificate of the key `number`, signed by the key `by`."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(self.key(KeyType.P256, number).public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - begin * DAY)
            .not_valid_after(self.now + days * DAY)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if dns and not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        if usage is not None:
            builder = builder.add_extension(_usage(**usage), critical=True)
        certificate = builder.sign(self.key(KeyType.P256, by).private, SHA256())
        return certificate.public_bytes(Encoding.PEM).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(**chosen: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**(dict.fromkeys(names, False) | chosen))


@pytest.fixture
def authority(key: Callable[..., Any], now: datetime) -> Authority:
    return Authority(key, now)


@pytest.fixture
def check(key: Callable[..., Any], now: datetime) -> Callable[[str], CertificateFacts]:
    return lambda chain: check_chain(chain, key(KeyType.P256).public, now)


Check = Callable[[str], CertificateFacts]


def test_a_good_chain_is_accepted(authority: Authority, check: Check, now: datetime) -> None:
    chain = authority.leaf + authority.intermediate
    assert check(chain) == CertificateFacts(now + 90 * DAY, chain, ())
    assert check(authority.leaf).chain_pem == authority.leaf


def test_line_ends_and_empty_lines_are_normalised(authority: Authority, check: Check) -> None:
    chain = authority.leaf + authority.intermediate
    assert check("\r\n\r\n" + chain.replace("\n", "\r\n") + "\r\n \n").chain_pem == chain
    assert check(authority.leaf + "\n\n" + authority.intermediate.rstrip("\n")).chain_pem == chain


def test_refusals_name_the_fix(authority: Authority, check: Check, key: Callable[..., Any]) -> None:
    leaf, intermediate, root = authority.leaf, authority.intermediate, authority.root
    foreign = authority.issue("leaf", 3, "intermediate", 2)
    fake_issuer = authority.issue("intermediate", 3, "root", 1, ca=True)
    private = (
        key(KeyType.P256).private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    )
    other_label = leaf.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    cases = {
        "": "contains no certificate;",
        " \n": "contains no certificate;",
        foreign: "contains no certificate of this key",
        intermediate + root: "contains no certificate of this key",
        intermediate + leaf: "put the leaf first",
        leaf + root: "certificate 2 did not issue certificate 1",
        leaf + intermediate + foreign: "certificate 3 did not issue certificate 2",
        leaf + root + intermediate: "certificate 2 did not issue certificate 1",
        leaf + fake_issuer: "certificate 2 did not issue certificate 1",
        leaf + leaf: "twice",
        leaf + intermediate + leaf: "twice",
        leaf + private: "private key",
        private + leaf: "private key",
        other_label: "TRUSTED CERTIFICATE block",
        leaf + "junk": "without other text",
        "junk" + leaf: "without other text",
        leaf + "subject=/CN=x\n" + intermediate: "without other text",
        leaf + "-----BEGIN CERTIFICATE-----\n": "without other text",
        leaf.replace("-----END CERTIFICATE-----", "-----END PUBLIC KEY-----"): "without other text",
        leaf.replace("MII", "M=I", 1): "base64",
        leaf[:80] + leaf[81:]: "base64",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n": "not a well-formed",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n": "not a well-formed",
        "\n" * 60_001: "at most 60000 characters",
    }
    for chain, reason in cases.items():
        with pytest.raises(BadRequest, match=f"^chain: .*({reason})") as failure:
            check(chain)
        assert "MII" not in failure.value.text
        assert len(failure.value.text) < 200


def test_a_chain_has_a_bounded_length(authority: Authority, check: Check) -> None:
    links = [
        authority.issue("intermediate", 2, "intermediate", 2, ca=True, days=365 + number)
        for number in range(10)
    ]
    assert check(authority.leaf + "".join(links[:9])).not_after
    with pytest.raises(BadRequest, match="at most 10 certificates"):
        check(authority.leaf + "".join(links))


def test_bytes_behind_a_certificate_are_refused(authority: Authority, check: Check) -> None:
    from hsmd.daemon.pki import der

    document = x509.load_pem_x509_certificate(authority.leaf.encode()).public_bytes(Encoding.DER)
    assert check(der.pem("CERTIFICATE", document)).chain_pem == authority.leaf
    for damaged in (document + b"\0", document[:-1], b"\0" + document):
        with pytest.raises(BadRequest, match="not a well-formed"):
            check(der.pem("CERTIFICATE", damaged))


def test_a_usable_chain_with_a_problem_gets_a_warning(authority: Authority, check: Check) -> None:
    leaf, intermediate, root = authority.leaf, authority.intermediate, authority.root
    short_intermediate = authority.issue("intermediate", 2, "root", 1, ca=True, days=30)
    cases = [
        (authority.issue("leaf", 0, "intermediate", 2, begin=90, days=-3), ["certificate 1 expired on 2026-03-01"]),
        (authority.issue("leaf", 0, "intermediate", 2, begin=-2), ["certificate 1 is not valid before 2026-03-06"]),
        (leaf + authority.issue("intermediate", 2, "root", 1, ca=True, begin=90, days=-3),
         ["certificate 2 expired on 2026-03-01", "an issuer's certificate ends before"]),
        (leaf + short_intermediate, ["an issuer's certificate ends before"]),
        (leaf + intermediate + root, ["the chain contains the root"]),
        (authority.issue("leaf", 0, "intermediate", 2, dns=""), ["no subject alternative name"]),
        (authority.issue("leaf", 0, "intermediate", 2, ca=True), ["no subject alternative name", "is a CA certificate"]),
        (authority.issue("leaf", 0, "intermediate", 2, usage={"key_cert_sign": True}), ["key usage"]),
        (authority.issue("leaf", 0, "intermediate", 2, usage={"digital_signature": True}), []),
        (authority.issue("leaf", 0, "intermediate", 2, usage={"key_encipherment": True}), []),
    ]  # fmt: skip
    for chain, expected in cases:
        warnings = check(chain).warnings
        assert len(warnings) == len(expected), warnings
        assert all(part in warning for part, warning in zip(expected, warnings, strict=True)), warnings


def test_chains_are_checked_at_the_current_time_by_default(
    authority: Authority, key: Callable[..., Any]
) -> None:
    ended = authority.issue("leaf", 0, "intermediate", 2, begin=9000, days=-8000)
    assert "expired" in check_chain(ended, key(KeyType.P256).public).warnings[0]


@pytest.mark.parametrize("key_type", KeyType)
def test_chains_of_all_key_types_are_accepted(
    key_type: KeyType, key: Callable[..., Any], authority: Authority, now: datetime
) -> None:
    builder = x509.CertificateBuilder().subject_name(_name("leaf")).issuer_name(_name("root"))
    builder = (
        builder.public_key(key(key_type).public)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + DAY)
    )
    leaf = builder.sign(key(KeyType.P256, 1).private, SHA256()).public_bytes(Encoding.PEM).decode()
    assert check_chain(leaf + authority.root, key(key_type).public, now).not_after == now + DAY

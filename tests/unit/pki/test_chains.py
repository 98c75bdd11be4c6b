"""Certificate chains before they are stored: accepted, refused with a reason, or accepted with a warning."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmd.algorithms import KeyType
from hsmd.daemon.pki import CertificateFacts, check_chain, refuse_pss
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
    assert check(chain) == CertificateFacts(now + 90 * DAY, chain, (), now - DAY)
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
        intermediate + leaf: r"the key is certificate 2 \(CN=leaf\) and not the first; put the leaf first",
        leaf
        + root: "certificate 2 did not issue certificate 1, which names CN=intermediate as its issuer and not CN=root",
        leaf + intermediate + foreign: "certificate 3 did not issue certificate 2",
        leaf + root + intermediate: "certificate 2 did not issue certificate 1.* that is certificate 3",
        leaf + fake_issuer: "certificate 2 did not issue certificate 1: .* not by its key",
        leaf + leaf: "certificates 1 and 2 .* twice",
        leaf + intermediate + leaf: r"certificates 1 and 3 \(CN=leaf\) .* twice",
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
        assert len(failure.value.text) < 300


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
        (authority.issue("leaf", 0, "intermediate", 2, begin=90, days=-3), ["certificate 1 (CN=leaf) expired on 2026-03-01"]),
        (authority.issue("leaf", 0, "intermediate", 2, begin=-2), ["certificate 1 (CN=leaf) is not valid before 2026-03-06"]),
        (leaf + authority.issue("intermediate", 2, "root", 1, ca=True, begin=90, days=-3),
         ["certificate 2 (CN=intermediate) expired on 2026-03-01", "an issuer's certificate ends before"]),
        (leaf + short_intermediate, ["an issuer's certificate ends before"]),
        (leaf + intermediate + root, ["the chain contains the root, which clients have already; remove certificate 3 (CN=root)"]),
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


# --- names, hashes and issuers ---

STRING, PRINTABLE = x509.name._ASN1Type.UTF8String, x509.name._ASN1Type.PrintableString


def named(*rdns: tuple[tuple[x509.ObjectIdentifier, str], ...], kind: Any = STRING) -> x509.Name:
    return x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(oid, text, kind) for oid, text in rdn])
            for rdn in rdns
        ]
    )


ORGANISATION, UNIT = x509.NameOID.ORGANIZATION_NAME, x509.NameOID.ORGANIZATIONAL_UNIT_NAME
CA_NAME = named(((ORGANISATION, "Example  Trust"),), ((UNIT, "a"), (x509.NameOID.COMMON_NAME, "Issuing CA")))


@pytest.fixture
def two(key: Callable[..., Any], now: datetime) -> Callable[..., str]:
    """A leaf that names `issuer`, and its issuer with the name CA_NAME and further extensions."""

    def make(
        issuer: x509.Name, *more: x509.ExtensionType, ca: bool = True, subject: x509.Name = CA_NAME
    ) -> str:
        leaf, authority = key(KeyType.P256, 0), key(KeyType.P256, 2)
        chain = ""
        for own, by, public, extensions in (
            (_name("leaf"), issuer, leaf.public, [x509.SubjectAlternativeName([x509.DNSName("a.example")])]),
            (subject, _name("root"), authority.public, [x509.BasicConstraints(ca, 0 if ca else None), *more]),
        ):
            builder = x509.CertificateBuilder().subject_name(own).issuer_name(by).public_key(public)
            builder = builder.serial_number(5).not_valid_before(now - DAY).not_valid_after(now + 9 * DAY)
            for extension in extensions:
                builder = builder.add_extension(extension, critical=False)
            made = builder.sign(authority.private, SHA256())
            chain += made.public_bytes(Encoding.PEM).decode()
        return chain

    return make


@pytest.mark.parametrize(
    "issuer",
    [
        named(
            ((ORGANISATION, "Example  Trust"),),
            ((UNIT, "a"), (x509.NameOID.COMMON_NAME, "Issuing CA")),
            kind=PRINTABLE,
        ),
        named(
            ((ORGANISATION, " EXAMPLE trust "),), ((UNIT, "A"), (x509.NameOID.COMMON_NAME, "issuing   ca"))
        ),
        named(((ORGANISATION, "Example Trust"),), ((x509.NameOID.COMMON_NAME, "Issuing CA"), (UNIT, "a"))),
    ],
    ids=["kind of string", "case and white space", "order in a set"],
)
def test_names_are_compared_by_their_meaning(
    issuer: x509.Name, two: Callable[..., str], check: Check
) -> None:
    assert check(two(issuer)).warnings == ()


@pytest.mark.parametrize(
    "issuer",
    [
        named(((ORGANISATION, "ExampleTrust"),), ((UNIT, "a"), (x509.NameOID.COMMON_NAME, "Issuing CA"))),
        named(((UNIT, "a"), (x509.NameOID.COMMON_NAME, "Issuing CA")), ((ORGANISATION, "Example Trust"),)),
        named(
            ((ORGANISATION, "Example Trust"),), ((UNIT, "a"),), ((x509.NameOID.COMMON_NAME, "Issuing CA"),)
        ),
        named(((UNIT, "Example Trust"),), ((UNIT, "a"), (x509.NameOID.COMMON_NAME, "Issuing CA"))),
    ],
    ids=["letters", "order", "structure", "type"],
)
def test_other_names_are_other_issuers(issuer: x509.Name, two: Callable[..., str], check: Check) -> None:
    with pytest.raises(BadRequest, match="certificate 2 did not issue certificate 1, which names"):
        check(two(issuer))


def test_what_makes_clients_refuse_an_issuer_is_a_warning(two: Callable[..., str], check: Check) -> None:
    assert "is not a CA certificate" in check(two(CA_NAME, ca=False)).warnings[0]
    assert "key usage" in check(two(CA_NAME, _usage(digital_signature=True))).warnings[0]
    assert check(two(CA_NAME, _usage(key_cert_sign=True))).warnings == ()


def test_a_path_that_is_too_long_is_a_warning(
    authority: Authority, two: Callable[..., str], check: Check
) -> None:
    top = two(_name("intermediate"), subject=_name("root")).partition("-----END CERTIFICATE-----\n")[2]
    leaf = authority.issue("leaf", 0, "intermediate", 2)
    middle = authority.issue("intermediate", 2, "root", 2, ca=True)
    warnings = check(leaf + middle + top).warnings
    assert "certificate 3 (CN=root) allows 0 CA certificates below it, and has 1" in warnings


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_the_hash_of_a_signature_is_named(
    digest: str, key: Callable[..., Any], openssl: Callable[..., str], tmp_path: Path, check: Check
) -> None:
    for name, number in (("ca.key", 2), ("leaf.key", 0)):
        private = key(KeyType.RSA_2048 if number == 2 else KeyType.P256, number).private
        (tmp_path / name).write_bytes(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
    ca = openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=old CA", "-out", "ca.pem")
    assert ca == ""
    openssl("req", "-new", "-key", "leaf.key", "-subj", "/CN=leaf", "-out", "leaf.csr")
    signed = ("-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "1")
    openssl("x509", *signed, f"-{digest}", "-out", "leaf.pem")
    chain = (tmp_path / "leaf.pem").read_text() + (tmp_path / "ca.pem").read_text()
    with pytest.raises(BadRequest, match=r"certificate 1 \(CN=leaf\) is signed with (SHA-1|MD5)"):
        check(chain)


def test_a_certificate_for_an_rsa_pss_key_is_refused(
    openssl: Callable[..., str], tmp_path: Path, check: Check
) -> None:
    openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key")
    openssl("req", "-x509", "-new", "-key", "key", "-subj", "/CN=pss", "-out", "cert")
    certificate = (tmp_path / "cert").read_text()
    with pytest.raises(BadRequest, match="id-RSASSA-PSS"):
        check(certificate)
    with pytest.raises(BadRequest, match="id-RSASSA-PSS"):
        refuse_pss(certificate)
    refuse_pss("")

"""Certificate chains before they are stored: accepted, refused with a reason, or accepted with a warning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmd.algorithms import KeyType
from hsmd.daemon.pki import CertificateFacts, check_chain, refuse_pss
from hsmd.errors import BadRequest
from hsmd.purposes import expand
from tests.support.certificate_versions import of_unknown_version

DAY = timedelta(days=1)


class Authority:
    """Issues leaf, intermediate and root, each with its own key."""

    def __init__(self, key: Callable[..., Any], now: datetime) -> None:
        self.key, self.now, self.signer = key, now, None
        self.root = self.issue("root", 1, "root", 1, ca=True, days=3650)
        self.intermediate = self.issue("intermediate", 2, "root", 1, ca=True, days=365)
        self.leaf = self.issue("leaf", 0, "intermediate", 2)

    def signed_by(self, signer: Any) -> str:
        """A leaf that this key signs in the name of the intermediate."""
        self.signer = signer
        leaf = self.issue("leaf", 0, "intermediate", 2)
        self.signer = None
        return leaf

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
        extended: Sequence[x509.ObjectIdentifier] = (),
        path: int | None = None,
        public: Any = None,
    ) -> str:
        """A certificate of the key `number` (or `public`), signed by the key `by`."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(public.public_key() if public else self.key(KeyType.P256, number).public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - begin * DAY)
            .not_valid_after(self.now + days * DAY)
            .add_extension(x509.BasicConstraints(ca, path), critical=True)
        )
        if dns and not ca:
            names = [x509.DNSName(name) for name in dns.split(",")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage is not None:
            builder = builder.add_extension(_usage(**usage), critical=True)
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        signer = self.signer or self.key(KeyType.P256, by).private
        certificate = builder.sign(signer, SHA256())
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


def test_line_ends_and_empty_lines_are_normalised(authority: Authority, check: Check) -> None:
    chain = authority.leaf + authority.intermediate
    assert check("\r\n\r\n" + chain.replace("\n", "\r\n") + "\r\n \n").chain_pem == chain
    assert check(authority.leaf + "\n\n" + authority.intermediate.rstrip("\n")).chain_pem == chain


def test_refusals_name_the_fix(authority: Authority, check: Check, key: Callable[..., Any]) -> None:
    leaf, intermediate, root = authority.leaf, authority.intermediate, authority.root
    foreign = authority.issue("leaf", 3, "intermediate", 2)
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
        of_unknown_version(leaf)[0] + intermediate: "not a well-formed",
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
    from tests.support import der

    document = x509.load_pem_x509_certificate(authority.leaf.encode()).public_bytes(Encoding.DER)
    assert check(der.pem("CERTIFICATE", document)).chain_pem == authority.leaf
    for damaged in (document + b"\0", document[:-1], b"\0" + document):
        with pytest.raises(BadRequest, match="not a well-formed"):
            check(der.pem("CERTIFICATE", damaged))


def test_a_usable_chain_with_a_problem_gets_a_warning(authority: Authority, check: Check) -> None:
    leaf, intermediate, root = authority.leaf, authority.intermediate, authority.root
    short_intermediate = authority.issue("intermediate", 2, "root", 1, ca=True, days=30)
    cases = [
        (leaf + short_intermediate, ["an issuer's certificate ends before"]),
        (leaf + intermediate + root, ["the chain contains the root, which clients have already; remove certificate 3 (CN=root)"]),
        (authority.issue("leaf", 0, "root", 1) + root, []),
        (authority.issue("leaf", 0, "intermediate", 2, dns="") + intermediate, ["no subject alternative name"]),
        (authority.issue("leaf", 0, "leaf", 0, ca=True), ["no subject alternative name", "is a CA certificate"]),
    ]  # fmt: skip
    for chain, expected in cases:
        facts = check(chain)
        assert facts.faults == ()
        assert len(facts.warnings) == len(expected), facts.warnings
        assert all(part in warning for part, warning in zip(expected, facts.warnings, strict=True))


def faulty(authority: Authority) -> dict[str, tuple[str, str]]:
    """Chains with which handshakes fail, each with what is said of it."""
    leaf, intermediate, root = authority.leaf, authority.intermediate, authority.root
    issue = authority.issue
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    no_signing = issue("intermediate", 2, "root", 1, ca=True, usage={"digital_signature": True})
    return {
        "expired": (issue("leaf", 0, "intermediate", 2, begin=90, days=-3) + intermediate, "certificate 1 (CN=leaf) expired on 2026-03-01"),
        "not yet valid": (issue("leaf", 0, "intermediate", 2, begin=-2) + intermediate, "certificate 1 (CN=leaf) is not valid before 2026-03-06 05:06 UTC"),
        "issuer expired": (leaf + issue("intermediate", 2, "root", 1, ca=True, begin=90, days=-3), "certificate 2 (CN=intermediate) expired on 2026-03-01"),
        "incomplete": (leaf, "behind certificate 1 (CN=leaf) the certificate of its issuer CN=intermediate is missing: append it"),
        "self-signed by name only": (issue("leaf", 0, "leaf", 2), "the certificate of its issuer CN=leaf is missing"),
        "another issuer": (leaf + root, "certificate 2 did not issue certificate 1, which names CN=intermediate as its issuer and not CN=root"),
        "another issuer behind": (leaf + intermediate + issue("leaf", 3, "intermediate", 2), "certificate 3 did not issue certificate 2"),
        "wrong order": (leaf + root + intermediate, "did not issue certificate 1, which names CN=intermediate as its issuer and not CN=root; that is certificate 3"),
        "key of a namesake": (leaf + issue("intermediate", 3, "root", 1, ca=True), "certificate 2 did not issue certificate 1: its name CN=intermediate is right, but the signature is not by its key"),
        "issuer is no CA": (leaf + issue("intermediate", 2, "root", 1), "certificate 2 (CN=intermediate) is not a CA certificate"),
        "issuer may not sign": (leaf + no_signing, "certificate 2 (CN=intermediate) may not sign certificates"),
        "path too long": (leaf + issue("intermediate", 2, "root", 2, ca=True) + issue("root", 2, "root", 1, ca=True, path=0), "certificate 3 (CN=root) allows 0 CA certificates below it, and has 1"),
        "leaf for clients": (issue("leaf", 0, "intermediate", 2, extended=[client]) + intermediate, "certificate 1 (CN=leaf) is not for TLS servers (serverAuth)"),
        "issuer for clients": (issue("leaf", 0, "intermediate", 2, extended=[server]) + issue("intermediate", 2, "root", 1, ca=True, extended=[client]), "certificate 2 (CN=intermediate) is not for TLS servers (serverAuth)"),
        "leaf is a CA": (issue("leaf", 0, "intermediate", 2, ca=True) + intermediate, "the leaf is a CA certificate"),
        "leaf not for handshakes": (issue("leaf", 0, "intermediate", 2, usage={"key_cert_sign": True}) + intermediate, "the leaf's key usage does not allow TLS handshakes"),
    }  # fmt: skip


FAULTS = tuple(
    faulty(cast("Any", SimpleNamespace(leaf="", intermediate="", root="", issue=lambda *_, **__: "")))
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chain_with_which_handshakes_fail_has_a_fault(
    fault: str, authority: Authority, check: Check
) -> None:
    chain, said = faulty(authority)[fault]
    facts = check(chain)
    assert said in facts.faults[0]
    with pytest.raises(BadRequest) as refused:
        facts.refuse_faults("hsmd cert import --force")
    assert refused.value.text.startswith("chain: ")
    assert refused.value.text.endswith("To store it nevertheless: hsmd cert import --force")


LENIENT = {"leaf is a CA", "wrong order", "another issuer behind"}
"""What OpenSSL accepts, and other libraries or browsers refuse."""


@pytest.mark.parametrize("fault", [each for each in FAULTS if each not in LENIENT])
def test_openssl_refuses_these_chains_too(
    fault: str, authority: Authority, openssl: Callable[..., str], tmp_path: Path, now: datetime
) -> None:
    """As a peer would that has the root: the leaf is verified with the other certificates, and a good chain passes."""
    (tmp_path / "root.pem").write_text(authority.root)

    def verify(chain: str) -> str:
        first, end, rest = chain.partition("-----END CERTIFICATE-----\n")
        (tmp_path / "leaf.pem").write_text(first + end)
        (tmp_path / "rest.pem").write_text(rest or authority.root)
        options = ("-attime", str(int(now.timestamp())), "-purpose", "sslserver", "-CAfile", "root.pem")
        return openssl("verify", *options, "-untrusted", "rest.pem", "leaf.pem")

    assert "OK" in verify(authority.leaf + authority.intermediate)
    with pytest.raises(AssertionError, match="verification failed"):
        verify(faulty(authority)[fault][0])


@pytest.mark.parametrize(
    ("purposes", "extended", "fault"),
    [
        (["tls-server"], [ExtendedKeyUsageOID.SERVER_AUTH], ""),
        (["tls-server"], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], ""),
        (["tls12-rsa-premaster"], [ExtendedKeyUsageOID.CLIENT_AUTH], "serverAuth"),
        (["tls-client"], [ExtendedKeyUsageOID.CLIENT_AUTH], ""),
        (["tls-client"], [ExtendedKeyUsageOID.SERVER_AUTH], "TLS clients (clientAuth)"),
        (["tls-client", "tls-server"], [ExtendedKeyUsageOID.CLIENT_AUTH], ""),
        (["tls-client", "tls-server"], [ExtendedKeyUsageOID.CODE_SIGNING], "(serverAuth) or TLS clients"),
        (["sign-message"], [ExtendedKeyUsageOID.CODE_SIGNING], ""),
    ],
)
def test_the_extended_key_usage_must_fit_the_purposes_of_the_key(
    purposes: list[str],
    extended: list[x509.ObjectIdentifier],
    fault: str,
    authority: Authority,
    key: Callable[..., Any],
    now: datetime,
) -> None:
    chain = authority.issue("leaf", 0, "intermediate", 2, extended=extended) + authority.intermediate
    facts = check_chain(chain, key(KeyType.P256).public, now, purposes=expand(purposes))
    assert (fault in facts.faults[0]) if fault else not facts.faults


def test_a_short_rsa_key_is_refused(authority: Authority, check: Check) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    chain = authority.signed_by(weak) + authority.issue("intermediate", 2, "root", 1, ca=True, public=weak)
    assert "certificate 2 (CN=intermediate) is for an RSA key of 1024 bits" in check(chain).faults[0]


def test_a_certificate_is_compared_with_the_one_before(
    authority: Authority, key: Callable[..., Any], now: datetime
) -> None:
    def compared(new: str, previous: str) -> CertificateFacts:
        return check_chain(new + authority.intermediate, key(KeyType.P256).public, now, previous=previous)

    issue = authority.issue
    first, second = (issue("leaf", 0, "intermediate", 2, begin=begin) for begin in (9, 3))
    assert compared(second, first).faults == ()
    assert compared(first, first).faults == compared(first, "").faults == compared(first, "?").faults == ()
    assert compared(first, of_unknown_version(second)[0]).faults == ()
    assert "certificate 1 is older than the one that is stored" in compared(first, second).faults[0]
    assert compared(first, issue("leaf", 0, "leaf", 0)).faults == (), "a self-signed one was for tests"
    names = [f"n{number}.example" for number in range(8)]
    many = issue("leaf", 0, "intermediate", 2, begin=5, dns=",".join(names))
    assert compared(second, many).warnings == (
        "the certificate before was also for n0.example, n1.example, n2.example, n3.example, n4.example and 3 more",
    )
    assert compared(many, many).warnings == ()
    assert compared(many, issue("leaf", 0, "intermediate", 2, begin=6, dns=names[3])).warnings == ()


def test_chains_are_checked_at_the_current_time_by_default(
    authority: Authority, key: Callable[..., Any]
) -> None:
    ended = authority.issue("leaf", 0, "intermediate", 2, begin=9000, days=-8000)
    assert "expired" in check_chain(ended, key(KeyType.P256).public).faults[0]


def test_a_certificate_without_an_end_is_accepted(authority: Authority, check: Check, now: datetime) -> None:
    """The value for no well-defined end (RFC 5280, section 4.1.2.5)."""
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=now.tzinfo)
    days = (end - now) // DAY
    made = check(authority.issue("leaf", 0, "root", 1, days=days) + authority.root)
    assert (made.faults, made.not_after.year) == ((), 9999)


@pytest.mark.parametrize("kind", ["Ed448", "RSA-PSS"])
def test_issuers_may_sign_with_what_no_key_of_hsmd_does(
    kind: str, key: Callable[..., Any], now: datetime
) -> None:
    """An issuer's own key is never in use here."""
    authority: Any = ed448.Ed448PrivateKey.generate() if kind == "Ed448" else key(KeyType.RSA_2048, 1).private
    pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH) if kind == "RSA-PSS" else None
    chain = ""
    for name, public in (("leaf", key(KeyType.P256).public), ("root", authority.public_key())):
        builder = (
            x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name("root")).public_key(public)
        )
        builder = builder.serial_number(5).not_valid_before(now - DAY).not_valid_after(now + 90 * DAY)
        basic = x509.BasicConstraints(name == "root", None)
        alternative = x509.SubjectAlternativeName([x509.DNSName("site.example")])
        builder = builder.add_extension(basic, True).add_extension(alternative, False)
        made = builder.sign(authority, None if kind == "Ed448" else SHA256(), rsa_padding=pss)
        chain += made.public_bytes(Encoding.PEM).decode()
    found = check_chain(chain, key(KeyType.P256).public, now)
    assert (found.faults, found.warnings) == ((), ())


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
    assert "certificate 2 did not issue certificate 1, which names" in check(two(issuer)).faults[0]


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
    named = {"sha1": "SHA-1", "md5": "MD5"}[digest]
    assert any(f"certificate 1 (CN=leaf) is signed with {named}, " in fault for fault in check(chain).faults)


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

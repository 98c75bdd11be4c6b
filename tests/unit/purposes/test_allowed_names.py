"""Allowed names of certificate requests: what a list allows, its canonical form, and the check of the bytes."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki import certificate_request
from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes.allowed_names import AllowedNames

ALLOWED = AllowedNames.of(["*.Example.com", "mail.example.org"])
SPKI = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


def request_for(*fields: Any, **named: Any) -> bytes:
    """The bytes that are signed for a request with these fields."""
    return certificate_request(SPKI, SignatureScheme.ECDSA_SHA256, *fields, **named).to_be_signed


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("www.example.com", True),
        ("WWW.example.COM", True),
        ("*.example.com", True),
        ("mail.example.org", True),
        ("example.com", False),
        ("a.b.example.com", False),
        ("*.b.example.com", False),
        (".example.com", True),  # not a host name: check_fields and check_info refuse it before
        ("example.org", False),
        ("www.example.org", False),
        ("*.example.org", False),
        ("x.mail.example.org", False),
        ("mail.example.org.", False),
        ("wwwexample.com", False),
        ("com", False),
        ("", False),
    ],
)
def test_what_a_list_allows(name: str, allowed: bool) -> None:
    assert ALLOWED.allows(name) is allowed


def test_the_canonical_form_has_each_name_once_in_order() -> None:
    text = '{"names":["*.example.com","mail.example.org"]}'
    assert ALLOWED.to_json() == text
    assert AllowedNames.of(["mail.example.org", "*.example.com", "MAIL.example.org"]).to_json() == text
    assert AllowedNames.parse(text) == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"names":[]}',
        '{"names":["a.b"],"more":1}',
        '{"names":[1]}',
        '{"names":["*"]}',
        "\ud800",
    ],
)
def test_other_constraints_are_not_taken_for_names(text: str) -> None:
    with pytest.raises(BadRequest):
        AllowedNames.parse(text)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["www..com"], "^names: 'www..com' is not a host name"),
        (["*"], r"^names: '\*' is not a host name"),
        (["*.com"], r"^names: '\*\.com': a wildcard must be followed by at least two labels"),
        (["a.*.com"], "is not a host name"),
        (["w*.example.com"], "is not a host name"),
        (["192.0.2.1"], "is an address, not a host name"),
        (["b\u00fccher.example"], "is not ASCII; give its xn-- form"),
        ([], "^names: give 1 to 100 allowed names"),
        (["a.example"] * 101, "^names: give 1 to 100 allowed names"),
    ],
)
def test_names_that_are_none_are_refused_in_the_words_of_the_user(names: list[str], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        AllowedNames.of(names)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            ("", ["evil.example"], [], ""),
            "^dns_names: the grant does not allow evil.example; ask an operator$",
        ),
        (
            ("", ["www.example.com", "example.com"], [], ""),
            "^dns_names: the grant does not allow example.com",
        ),
        (("evil.example", [], [], ""), "^common_name: the grant does not allow evil.example"),
        (("Example Inc", ["www.example.com"], [], ""), "^common_name: 'Example Inc' is not a host name"),
        (("", ["www.example.com"], ["192.0.2.1"], ""), "^ip_addresses: "),
        (("", ["www.example.com"], [], "Example"), "^organization: "),
        (("", [".example.com"], [], ""), "^dns_names: '.example.com' is not a host name"),
    ],
)
def test_fields_beyond_the_names_are_refused(
    fields: tuple[str, list[str], list[str], str], says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        ALLOWED.check_fields(*fields)


@pytest.mark.parametrize(
    "fields",
    [
        ("", ["www.example.com"]),
        ("www.example.com", []),
        ("mail.example.org", ["*.example.com", "mail.example.org", "UP.example.com"]),
    ],
)
def test_requests_for_allowed_names_pass(fields: tuple[str, list[str]]) -> None:
    ALLOWED.check_fields(*fields, [], "")
    ALLOWED.check_info(request_for(*fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dns_names": ["evil.example"]}, "evil.example is not allowed"),
        ({"dns_names": ["www.example.com", "evil.example"]}, "evil.example is not allowed"),
        ({"common_name": "evil.example"}, "evil.example is not allowed"),
        ({"common_name": "Example Inc", "dns_names": ["www.example.com"]}, "not a host name"),
        ({"dns_names": ["www.example.com"], "ip_addresses": ["192.0.2.1"]}, "not a DNS name"),
        ({"dns_names": ["www.example.com"], "organization": "Example"}, "more than a common name"),
    ],
)
def test_the_bytes_are_checked_as_well(fields: dict[str, object], says: str) -> None:
    with pytest.raises(PurposeMismatch, match=says):
        ALLOWED.check_info(request_for(**fields))


def test_bytes_with_anything_but_names_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    www = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")])
    two = x509.Name([*www, x509.NameAttribute(NameOID.COMMON_NAME, "evil.example")])
    one = x509.Name([x509.RelativeDistinguishedName([*www, x509.NameAttribute(NameOID.LOCALITY_NAME, "x")])])

    def info(subject: x509.Name, *extensions: x509.ExtensionType) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(key, SHA256()).tbs_certrequest_bytes

    def names(*general: x509.GeneralName) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName(list(general))

    good = names(x509.DNSName("www.example.com"))
    ALLOWED.check_info(info(www, good))
    for bad in (
        info(two, good),
        info(two),
        info(one, good),
        info(www, good, x509.BasicConstraints(ca=True, path_length=None)),
        info(www, x509.BasicConstraints(ca=True, path_length=None)),
        info(www, names(x509.DNSName("www.example.com"), x509.RFC822Name("a@example.com"))),
        info(www, names(x509.UniformResourceIdentifier("https://www.example.com"))),
    ):
        with pytest.raises(PurposeMismatch):
            ALLOWED.check_info(bad)


def test_every_change_of_a_byte_of_a_name_is_refused_or_allowed_by_the_list() -> None:
    data = request_for("www.example.com", ["mail.example.org"])
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            ALLOWED.check_info(changed)
        except PurposeMismatch:
            continue
        for name in _names_in(changed):
            assert ALLOWED.allows(name)


def _names_in(info: bytes) -> list[str]:
    """The printable runs that end like host names: what any reader could take for a name."""
    text = "".join(chr(byte) if 0x21 <= byte < 0x7F else " " for byte in info)
    return [word for word in text.split() if word.endswith((".com", ".org"))]

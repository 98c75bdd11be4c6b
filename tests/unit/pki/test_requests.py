"""Certificate requests, checked by openssl and by the purpose check of the worker."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from hsmd.algorithms import KeyType, schemes_for
from hsmd.daemon.pki import certificate_request, default_scheme
from hsmd.errors import BadRequest, PurposeMismatch, TokenFailure
from hsmd.purposes.x509 import check_request

DNS = ["Site.Example", "*.site.example", "localhost"]
IPS = ["192.0.2.1", "2001:DB8::1"]


@pytest.mark.parametrize("key_type", KeyType)
def test_openssl_verifies_a_request(
    key_type: KeyType, key: Callable[..., Any], openssl: Callable[..., str]
) -> None:
    signer, scheme = key(key_type), default_scheme(key_type)
    unsigned = certificate_request(signer.spki, scheme, "site.example", DNS, IPS, "Example GmbH & Co. Käse")
    check_request(signer.spki, unsigned.to_be_signed)
    pem = signer.finish(unsigned, scheme)
    output = openssl("req", "-verify", "-noout", "-text", "-nameopt", "utf8", document=pem)
    assert "verify OK" in output
    assert "O=Example GmbH & Co. Käse, CN=site.example" in output
    assert (
        "DNS:site.example, DNS:*.site.example, DNS:localhost, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1"
        in output
    )


@pytest.mark.parametrize("scheme", schemes_for(KeyType.RSA_2048))
def test_every_scheme_verifies(scheme: Any, key: Callable[..., Any], openssl: Callable[..., str]) -> None:
    signer = key(KeyType.RSA_2048)
    pem = signer.finish(certificate_request(signer.spki, scheme, "", ["site.example"]), scheme)
    assert "verify OK" in openssl("req", "-verify", "-noout", document=pem)


def test_with_an_empty_subject_the_alternative_names_are_critical(
    key: Callable[..., Any], openssl: Callable[..., str]
) -> None:
    signer, scheme = key(KeyType.P256), default_scheme(KeyType.P256)
    unsigned = certificate_request(signer.spki, scheme, dns_names=["site.example"])
    request = x509.load_pem_x509_csr(signer.finish(unsigned, scheme).encode())
    assert request.subject == x509.Name([])
    assert request.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_a_common_name_alone_is_enough(key: Callable[..., Any], openssl: Callable[..., str]) -> None:
    signer, scheme = key(KeyType.ED25519), default_scheme(KeyType.ED25519)
    unsigned = certificate_request(signer.spki, scheme, "a device")
    check_request(signer.spki, unsigned.to_be_signed)
    pem = signer.finish(unsigned, scheme)
    assert "verify OK" in openssl("req", "-verify", "-noout", document=pem)


def test_a_request_is_what_cryptography_signs_itself(key: Callable[..., Any]) -> None:
    signer = key(KeyType.P256)
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Org"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, "cn"),
            ]
        )
    )
    names = [x509.DNSName(f"host{number}.example") for number in range(100)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    from cryptography.hazmat.primitives.hashes import SHA256

    expected = builder.sign(signer.private, SHA256()).tbs_certrequest_bytes
    unsigned = certificate_request(
        signer.spki, default_scheme(KeyType.P256), "cn", [name.value for name in names], [], "Org"
    )
    assert unsigned.to_be_signed == expected


def test_the_bytes_are_those_of_earlier_releases(key: Callable[..., Any]) -> None:
    """They were assembled by hand there."""
    spki, scheme = key(KeyType.P256).spki, default_scheme(KeyType.P256)
    alternative = (
        bytes.fromhex("302806092a864886f70d01090e311b301930170603551d110101ff040d300b8209") + b"a.example"
    )
    expected = bytes.fromhex("30818c0201003000") + spki + bytes.fromhex("a02a") + alternative
    assert certificate_request(spki, scheme, "", ["a.example"]).to_be_signed == expected
    without = certificate_request(spki, scheme, "a").to_be_signed
    assert without == bytes.fromhex("306e020100300c310a300806035504030c0161") + spki + bytes.fromhex("a000")


def test_a_wrong_signature_is_not_returned(key: Callable[..., Any]) -> None:
    scheme = default_scheme(KeyType.P256)
    unsigned = certificate_request(key(KeyType.P256).spki, scheme, "site")
    for wrong in (key(KeyType.P256, 1).sign(scheme, unsigned.to_be_signed), b""):
        with pytest.raises(TokenFailure):
            unsigned.signed(wrong)


def test_the_purpose_check_refuses_a_request_for_another_key(key: Callable[..., Any]) -> None:
    unsigned = certificate_request(key(KeyType.P256).spki, default_scheme(KeyType.P256), "site")
    with pytest.raises(PurposeMismatch):
        check_request(key(KeyType.P256, 1).spki, unsigned.to_be_signed)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("dns_names", {}),
        ("dns_names", {"organization": "Org"}),
        ("dns_names", {"dns_names": [""]}),
        ("dns_names", {"dns_names": ["a b"]}),
        ("dns_names", {"dns_names": ["-a.example"]}),
        ("dns_names", {"dns_names": ["a-.example"]}),
        ("dns_names", {"dns_names": ["a..example"]}),
        ("dns_names", {"dns_names": ["a.example."]}),
        ("dns_names", {"dns_names": [".example"]}),
        ("dns_names", {"dns_names": ["a_b.example"]}),
        ("dns_names", {"dns_names": ["*"]}),
        ("dns_names", {"dns_names": ["*.example"]}),
        ("dns_names", {"dns_names": ["a*.site.example"]}),
        ("dns_names", {"dns_names": ["a.*.example"]}),
        ("dns_names", {"dns_names": ["*.*.site.example"]}),
        ("dns_names", {"dns_names": ["käse.example"]}),
        ("dns_names", {"dns_names": ["a.example\n"]}),
        ("dns_names", {"dns_names": ["a.example\x00.evil"]}),
        ("dns_names", {"dns_names": ["192.0.2.1"]}),
        ("dns_names", {"dns_names": ["x" * 64 + ".example"]}),
        ("dns_names", {"dns_names": [".".join(["x" * 50] * 6)]}),
        ("dns_names", {"dns_names": ["a.example", "A.example"]}),
        ("dns_names", {"dns_names": [f"h{number}.example" for number in range(101)]}),
        ("ip_addresses", {"ip_addresses": ["site.example"]}),
        ("ip_addresses", {"ip_addresses": [""]}),
        ("ip_addresses", {"ip_addresses": ["192.0.2.0/24"]}),
        ("ip_addresses", {"ip_addresses": ["192.0.2.01"]}),
        ("ip_addresses", {"ip_addresses": ["fe80::1%eth0"]}),
        ("ip_addresses", {"ip_addresses": ["::1", "0:0:0:0:0:0:0:1"]}),
        ("common_name", {"common_name": "x" * 65}),
        ("common_name", {"common_name": "a\x00b"}),
        ("common_name", {"common_name": "a\u202eb"}),
        ("common_name", {"common_name": "a\u2028b"}),
        ("common_name", {"common_name": " a"}),
        ("common_name", {"common_name": "\ud800"}),
        ("organization", {"common_name": "a", "organization": "a\nb"}),
        ("organization", {"common_name": "a", "organization": "x" * 65}),
    ],
)
def test_errors_name_the_field(key: Callable[..., Any], field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=f"^{field}: ") as failure:
        certificate_request(key(KeyType.P256).spki, default_scheme(KeyType.P256), **arguments)
    assert failure.value.text.isprintable()
    assert len(failure.value.text) < 200


def test_openssl_3_is_installed() -> None:
    assert subprocess.run(["openssl", "version"], capture_output=True, check=True).stdout.startswith(
        b"OpenSSL 3"
    )

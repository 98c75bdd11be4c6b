"""Self-signed certificates, checked by openssl and by the purpose check of the worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hsmd.algorithms import KeyType, SignatureScheme, schemes_for
from hsmd.daemon.pki import check_chain, default_scheme, self_signed_certificate
from hsmd.errors import BadRequest, TokenFailure
from hsmd.purposes.x509 import check_self_signed

MONTH = timedelta(days=30)


def made(signer: Any, scheme: SignatureScheme, begin: datetime, end: datetime, **changes: Any) -> str:
    arguments = {"dns_names": ["site.example"], "ip_addresses": ["::1"], "serial": 1} | changes
    unsigned = self_signed_certificate(
        signer.spki, not_before=begin, not_after=end, scheme=scheme, **arguments
    )
    check_self_signed(signer.spki, scheme, unsigned.to_be_signed)
    pem: str = signer.finish(unsigned, scheme)
    return pem


@pytest.mark.parametrize(
    ("key_type", "scheme"),
    [
        (key_type, scheme)
        for key_type in KeyType
        for scheme in {default_scheme(key_type), schemes_for(key_type)[-1]}
    ],
)
def test_openssl_verifies_a_certificate(
    key_type: KeyType,
    scheme: SignatureScheme,
    key: Callable[..., Any],
    openssl: Callable[..., str],
    tmp_path: Path,
    now: datetime,
) -> None:
    (tmp_path / "site.pem").write_text(made(key(key_type), scheme, now, now + MONTH))
    at = str(int(now.timestamp()) + 60)
    common = ["-x509_strict", "-check_ss_sig", "-attime", at, "-CAfile", "site.pem", "site.pem"]
    for purpose in ("sslserver", "sslclient"):
        assert "site.pem: OK" in openssl(
            "verify", "-purpose", purpose, "-verify_hostname", "site.example", *common
        )
    assert "site.pem: OK" in openssl("verify", "-verify_ip", "::1", *common)


def test_a_certificate_has_its_fields_and_extensions(
    key: Callable[..., Any], now: datetime, openssl: Callable[..., str]
) -> None:
    pem = made(key(KeyType.P256), SignatureScheme.ECDSA_SHA256, now, now + MONTH, serial=2**159 - 1)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == 2**159 - 1
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (now, now + MONTH)
    assert certificate.subject == certificate.issuer
    output = openssl("x509", "-noout", "-text", "-nameopt", "RFC2253", document=pem)
    for line in (
        "Subject: CN=site.example",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "DNS:site.example, IP Address:0:0:0:0:0:0:0:1",
    ):
        assert line in output
    key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == key_id.digest
    assert openssl("x509", "-outform", "PEM", document=pem) == pem


def test_a_name_too_long_for_a_common_name_is_replaced(key: Callable[..., Any], now: datetime) -> None:
    long = ".".join(["x" * 40] * 4)
    pem = made(key(KeyType.P256), SignatureScheme.ECDSA_SHA256, now, now + MONTH, dns_names=[long])
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.subject.rfc4514_string() == "CN=hsmd self-signed"


@pytest.mark.parametrize("year", [2049, 2050, 2099])
def test_times_are_encoded_for_their_year(
    year: int, key: Callable[..., Any], openssl: Callable[..., str]
) -> None:
    begin = datetime(2049, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=2)))
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    pem = made(key(KeyType.P256), SignatureScheme.ECDSA_SHA256, begin, end)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.not_valid_before_utc == datetime(2049, 12, 31, 21, 59, 59, tzinfo=UTC)
    assert certificate.not_valid_after_utc == end
    assert f"Dec 31 23:59:59 {year} GMT" in openssl("x509", "-noout", "-enddate", document=pem)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dns_names": [], "ip_addresses": []}, "dns_names"),
        ({"dns_names": ["*.com"]}, "dns_names"),
        ({"serial": 0}, "serial"),
        ({"serial": -1}, "serial"),
        ({"serial": 2**159}, "serial"),
        ({"end": timedelta(0)}, "days"),
        ({"end": -MONTH}, "days"),
    ],
)
def test_errors_name_the_field(
    key: Callable[..., Any], now: datetime, changes: dict[str, Any], field: str
) -> None:
    end = now + changes.pop("end", MONTH)
    with pytest.raises(BadRequest, match=f"^{field}: "):
        made(key(KeyType.P256), SignatureScheme.ECDSA_SHA256, now, end, **changes)


def test_a_wrong_signature_is_not_returned(key: Callable[..., Any], now: datetime) -> None:
    scheme = SignatureScheme.ECDSA_SHA256
    unsigned = self_signed_certificate(key(KeyType.P256).spki, ["a.example"], [], now, now + MONTH, 1, scheme)
    tbs = unsigned.to_be_signed
    for signature in (
        key(KeyType.P256, 1).sign(scheme, tbs),
        b"",
        key(KeyType.P256).sign(scheme, tbs + b"x"),
    ):
        with pytest.raises(TokenFailure):
            unsigned.signed(signature)


def test_a_self_signed_certificate_is_a_valid_chain(key: Callable[..., Any], now: datetime) -> None:
    pem = made(key(KeyType.P256), SignatureScheme.ECDSA_SHA256, now, now + MONTH)
    facts = check_chain(pem, key(KeyType.P256).public, now)
    assert (facts.chain_pem, facts.not_after, facts.warnings) == (pem, now + MONTH, ())

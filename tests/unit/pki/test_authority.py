"""What an authority issues, as bytes: extensions of each profile, and lists with as many entries as one operation has room for."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.front.authorities.issuing import MAX_REVOKED
from hsmd.daemon.pki import authority, default_scheme
from hsmd.protocol.frames import MAX_DATA_BYTES
from hsmd.purposes import Beside, Purpose, PurposeCheck
from tests.support.hostile_certificates import NAME, Asked, constraints

ALL = (KeyType.RSA_2048, KeyType.P256, KeyType.P384, KeyType.ED25519)


def check_of(key_type: KeyType, spki: bytes, now: datetime) -> PurposeCheck:
    document = {Purpose.X509_AUTHORITY: constraints().document()}
    return PurposeCheck(
        key_type, spki, document, Beside(lambda digest: None, lambda digest: None, now.timestamp)
    )


@pytest.mark.parametrize("key_type", ALL)
def test_authorities_of_every_type_sign_what_they_issue(
    key_type: KeyType, key: Callable[..., Any], now: datetime
) -> None:
    signer, scheme = key(key_type), default_scheme(key_type)
    for data in Asked(signer.spki, scheme, now).honest().values():
        check_of(key_type, signer.spki, now).check(Purpose.X509_AUTHORITY, scheme, data)


@pytest.mark.parametrize("year", [2049, 2050, 2060])
def test_terms_may_go_beyond_2049(year: int, key: Callable[..., Any]) -> None:
    signer, scheme = key(KeyType.P256), SignatureScheme.ECDSA_SHA256
    now = datetime.fromisoformat(f"{year}-12-31T23:00:00+00:00")
    check = check_of(KeyType.P256, signer.spki, now)
    for data in Asked(signer.spki, scheme, now).honest().values():
        check.check(Purpose.X509_AUTHORITY, scheme, data)


def test_the_longest_list_is_one_operation(key: Callable[..., Any], now: datetime) -> None:
    signer, scheme = key(KeyType.P256), SignatureScheme.ECDSA_SHA256
    issuer = authority.Issuer.of_key(NAME, signer.spki, scheme)
    serial = (1 << authority.SERIAL_BITS) - 1
    revoked = [authority.Revoked(serial - at, now, "key-compromise") for at in range(MAX_REVOKED)]
    unsigned = authority.revocation_list(issuer, int(now.timestamp()), now, now + timedelta(days=7), revoked)
    assert len(unsigned.to_be_signed) <= MAX_DATA_BYTES
    begin = time.monotonic()
    check_of(KeyType.P256, signer.spki, now).check(Purpose.X509_AUTHORITY, scheme, unsigned.to_be_signed)
    assert time.monotonic() - begin < 1.0, "the worker makes nothing else meanwhile"
    document = unsigned.signed(signer.sign(scheme, unsigned.to_be_signed))
    assert len(list(document)) == MAX_REVOKED


def test_unspecified_reasons_are_left_out(key: Callable[..., Any], now: datetime) -> None:
    """RFC 5280, section 5.3.1."""
    signer, scheme = key(KeyType.P256), SignatureScheme.ECDSA_SHA256
    issuer = authority.Issuer.of_key(NAME, signer.spki, scheme)
    unsigned = authority.revocation_list(
        issuer, 1, now, now + timedelta(days=1), [authority.Revoked(5, now, "unspecified")]
    )
    (entry,) = unsigned.signed(signer.sign(scheme, unsigned.to_be_signed))
    assert (entry.serial_number, len(entry.extensions)) == (5, 0)


def test_serial_numbers_are_random() -> None:
    found = {authority.random_serial() for _ in range(1_000)}
    assert len(found) == 1_000
    assert all(0 < serial < 1 << authority.SERIAL_BITS for serial in found)
    assert max(found).bit_length() > 120


def test_the_identifier_of_the_issuer_is_that_of_its_certificate(
    key: Callable[..., Any], now: datetime
) -> None:
    signer, scheme = key(KeyType.P256), SignatureScheme.ECDSA_SHA256
    issuer = authority.Issuer(NAME, signer.spki, scheme, b"chosen by another authority")
    term = authority.Term(now, now + timedelta(days=1))
    names = [x509.DNSName("a.example.com")]
    unsigned = authority.leaf_certificate(
        issuer, "server", x509.Name([]), names, key(KeyType.P256, 1).spki, term, 5
    )
    leaf = unsigned.signed(signer.sign(scheme, unsigned.to_be_signed))
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert (found.key_identifier, found.authority_cert_issuer) == (b"chosen by another authority", None)
    check_of(KeyType.P256, signer.spki, now).check(Purpose.X509_AUTHORITY, scheme, unsigned.to_be_signed)

"""Two passes of a builder: the key sees the bytes that the document holds, and only its own signature is taken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from hsmd.algorithms import KeyType, SignatureScheme, schemes_for
from hsmd.daemon.pki import Unsigned
from hsmd.errors import TokenFailure
from hsmd.purposes.x509 import ALGORITHM_IDENTIFIERS

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
EVERY = [(key_type, scheme) for key_type in KeyType for scheme in schemes_for(key_type)]


def certificate(key: Any, now: datetime) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(NAME, NAME, key.public, 1, now, now + timedelta(days=1))


def revocations(key: Any, now: datetime) -> x509.CertificateRevocationListBuilder:
    return x509.CertificateRevocationListBuilder(NAME, now, now + timedelta(days=1))


def request(key: Any, now: datetime) -> x509.CertificateSigningRequestBuilder:
    return x509.CertificateSigningRequestBuilder(NAME)


@pytest.mark.parametrize("builder", [certificate, revocations, request])
@pytest.mark.parametrize(("key_type", "scheme"), EVERY)
def test_every_document_is_signed_with_every_scheme(
    key_type: KeyType,
    scheme: SignatureScheme,
    builder: Callable[..., Any],
    key: Callable[..., Any],
    now: datetime,
) -> None:
    signer = key(key_type)
    unsigned: Unsigned[Any] = Unsigned(builder(signer, now), signer.spki, scheme)
    signature = signer.sign(scheme, unsigned.to_be_signed)
    document = unsigned.signed(signature)
    assert document.signature == signature
    assert verifies(document, signer.public)
    names = ("tbs_certificate_bytes", "tbs_certlist_bytes", "tbs_certrequest_bytes")
    (signed,) = (getattr(document, name) for name in names if hasattr(document, name))
    assert signed == unsigned.to_be_signed
    if builder is not request:  # a request holds no algorithm among what is signed
        assert ALGORITHM_IDENTIFIERS[scheme] in signed


@pytest.mark.parametrize("key_type", [KeyType.RSA_2048, KeyType.P256, KeyType.ED25519])
def test_another_signature_is_not_taken(key_type: KeyType, key: Callable[..., Any], now: datetime) -> None:
    signer, scheme = key(key_type), schemes_for(key_type)[0]
    unsigned = Unsigned(certificate(signer, now), signer.spki, scheme)
    for wrong in (
        key(key_type, 1).sign(scheme, unsigned.to_be_signed),
        signer.sign(scheme, unsigned.to_be_signed + b"\0"),
        b"",
    ):
        with pytest.raises(TokenFailure):
            unsigned.signed(wrong)


def verifies(document: Any, public: Any) -> bool:
    if isinstance(document, x509.CertificateSigningRequest):
        return document.is_signature_valid
    if isinstance(document, x509.CertificateRevocationList):
        return document.is_signature_valid(public)
    document.verify_directly_issued_by(document)
    return True

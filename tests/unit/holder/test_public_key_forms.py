"""Public keys as people have them: every form gives the one form, and a private key is never sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from hsmd.errors import BadRequest
from hsmd.holder.public_key_forms import MAX_BYTES, spki_of
from tests.support.envelopes import rsa_key

KEYS: dict[str, Any] = {
    "rsa": rsa_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def expected(key: Any) -> bytes:
    spki: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


def forms(key: Any) -> dict[str, bytes]:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(1)).sign(
        key, algorithm
    )
    other = KEYS["p256"]
    issuer = x509.CertificateBuilder(name, name, other.public_key(), 8, now, now + timedelta(1)).sign(
        other, hashes.SHA256()
    )
    request = x509.CertificateSigningRequestBuilder(name).sign(key, algorithm)
    ssh = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    ssh_certificate = (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .type(SSHCertificateType.USER)
        .valid_for_all_principals()
        .valid_after(0)
        .valid_before(2**64 - 1)
        .serial(1)
        .key_id(b"x")
        .sign(ed25519.Ed25519PrivateKey.generate())
    )
    return {
        "pem": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": expected(key),
        "certificate": certificate.public_bytes(Encoding.PEM),
        "chain": certificate.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM),
        "certificate-der": certificate.public_bytes(Encoding.DER),
        "request": request.public_bytes(Encoding.PEM),
        "request-der": request.public_bytes(Encoding.DER),
        "ssh": ssh,
        "ssh-with-comment": ssh + b" anna@laptop\n",
        "ssh-certificate": ssh_certificate.public_bytes(),
    }


@pytest.mark.parametrize("kind", KEYS)
def test_every_form_gives_the_same_key(kind: str) -> None:
    found = {form: spki_of(content) for form, content in forms(KEYS[kind]).items()}
    assert set(found.values()) == {expected(KEYS[kind])}, found


def test_a_private_key_is_refused_and_said_to_be_one() -> None:
    pem = KEYS["p256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(BadRequest, match="this is a private key, and nothing was sent"):
        spki_of(pem)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", b"\x30\x00", b"ssh-ed25519 AAAA", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        b"ssh-rsa", b"\xff" * 100, b"x" * (MAX_BYTES + 1),
        ed448.Ed448PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)  # fmt: skip
def test_what_is_no_public_key_is_named(content: bytes) -> None:
    with pytest.raises(BadRequest, match="give a public key"):
        spki_of(content)

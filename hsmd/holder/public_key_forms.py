"""Public keys as people have them, in their one form: SubjectPublicKeyInfo, certificate, certificate request, or OpenSSH line."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    load_der_public_key,
    load_pem_public_key,
    load_ssh_public_identity,
)

from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.errors import BadRequest, EnvelopeInvalid

MAX_BYTES = 262_144
_ADVICE = "give a public key (PEM or DER), a certificate, a certificate request, or an OpenSSH public key"


def spki_of(content: bytes) -> bytes:
    """The SubjectPublicKeyInfo in DER of the key in `content`; of a chain, that of the first certificate. Raises BadRequest."""
    if len(content) > MAX_BYTES:
        raise BadRequest(f"the public key has more than {MAX_BYTES} bytes; {_ADVICE}")
    if b"PRIVATE KEY-----" in content:
        raise BadRequest(f"this is a private key, and nothing was sent; {_ADVICE}")
    try:
        key = _loaded(content)
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return canonical_spki(spki).der
    except EnvelopeInvalid as error:
        raise BadRequest(f"{error.text}; {_ADVICE}") from None
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise BadRequest(f"this is not a public key of a kind that is known; {_ADVICE}") from None


def _loaded(content: bytes) -> Any:
    if (
        b"-----BEGIN CERTIFICATE REQUEST-----" in content
        or b"-----BEGIN NEW CERTIFICATE REQUEST-----" in content
    ):
        return x509.load_pem_x509_csr(content).public_key()
    if b"-----BEGIN CERTIFICATE-----" in content:
        return x509.load_pem_x509_certificates(content)[0].public_key()
    if b"-----BEGIN " in content:
        return load_pem_public_key(content)
    if content[:1] == b"\x30":
        return _from_der(content)
    identity = load_ssh_public_identity(content.strip())
    return identity.public_key() if isinstance(identity, SSHCertificate) else identity


def _from_der(content: bytes) -> Any:
    for load in (load_der_public_key, x509.load_der_x509_certificate, x509.load_der_x509_csr):
        try:
            found = load(content)
        except (ValueError, TypeError):
            continue
        return found.public_key() if hasattr(found, "public_key") else found
    raise ValueError

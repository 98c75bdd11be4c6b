"""Checks of the certificate chain that is to be stored for a key."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.daemon.pki import der
from hsmd.errors import BadRequest

MAX_CERTIFICATES = 10
"""TLS libraries reject longer chains, too."""
MAX_CHAIN_CHARACTERS = 60_000
_LABEL = "CERTIFICATE"
_BLOCK = re.compile(
    r"\s*-----BEGIN (?P<label>[A-Z0-9 ]{1,60})-----\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\r\n]*)"
    r"-----END (?P=label)-----[ \t]*(?:\r?\n|\Z)"
)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """When the leaf ends (aware UTC), the chain in normalised PEM, and warnings for the operator."""

    not_after: datetime
    chain_pem: str
    warnings: tuple[str, ...]


def check_chain(chain_pem: str, public_key: PublicKeyTypes, now: datetime | None = None) -> CertificateFacts:
    """Check that a chain is the certificate of this key, followed by its issuers, each the issuer of the one before.

    Whether clients trust the root is not checked. `now` (aware) is for the warnings; the default is the present time. Raises
    BadRequest with the next step.
    """
    documents = _documents(chain_pem)
    chain = [_certificate(position, document) for position, document in enumerate(documents, 1)]
    _check_leaf(chain, public_key)
    for position in range(1, len(chain)):
        _check_issued(chain, position)
    warnings = _warnings(chain, now or datetime.now(UTC))
    clean = "".join(der.pem(_LABEL, document) for document in documents)
    return CertificateFacts(chain[0].not_valid_after_utc, clean, tuple(warnings))


def _documents(chain_pem: str) -> list[bytes]:
    """The DER of each block. Other text between the blocks is refused, so that nothing unchecked is stored."""
    if len(chain_pem) > MAX_CHAIN_CHARACTERS:
        raise BadRequest(
            f"chain: at most {MAX_CHAIN_CHARACTERS} characters; give the certificates of the chain only"
        )
    documents: list[bytes] = []
    position = 0
    while chain_pem[position:].strip():
        block = _BLOCK.match(chain_pem, position)
        if block is None:
            raise BadRequest(
                "chain: give only blocks from BEGIN CERTIFICATE to END CERTIFICATE, without other text"
            )
        documents.append(_document(block["label"], block["body"]))
        position = block.end()
        if len(documents) > MAX_CERTIFICATES:
            raise BadRequest(f"chain: at most {MAX_CERTIFICATES} certificates; give those of the chain only")
    if not documents:
        raise BadRequest("chain: it contains no certificate; give PEM, the certificate of the key first")
    if len(set(documents)) != len(documents):
        raise BadRequest("chain: it contains a certificate twice; remove one")
    return documents


def _document(label: str, body: str) -> bytes:
    if label.endswith("PRIVATE KEY"):
        raise BadRequest(
            "chain: it contains a private key; give certificates only, and consider that key compromised"
        )
    if label != _LABEL:
        raise BadRequest(f"chain: it contains a {label} block; give certificates only")
    try:
        return base64.b64decode(body.replace("\r", "").replace("\n", ""), validate=True)
    except binascii.Error:
        raise BadRequest("chain: a certificate is not valid base64; copy the file again") from None


def _certificate(position: int, document: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(document)
        _ = certificate.extensions, certificate.subject, certificate.issuer
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        raise BadRequest(f"chain: certificate {position} is not a well-formed X.509 certificate") from None
    return certificate


def _check_leaf(chain: Sequence[x509.Certificate], public_key: PublicKeyTypes) -> None:
    ours = [_is_for(certificate, public_key) for certificate in chain]
    if not ours[0]:
        if any(ours):
            raise BadRequest(
                "chain: the certificate of the key is not the first; put the leaf first, then its issuers"
            )
        raise BadRequest(
            "chain: it contains no certificate of this key; create a request with `hsmd key csr` and have it signed"
        )


def _is_for(certificate: x509.Certificate, public_key: PublicKeyTypes) -> bool:
    try:
        return _spki(certificate.public_key()) == _spki(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return False


def _check_issued(chain: Sequence[x509.Certificate], position: int) -> None:
    try:
        chain[position - 1].verify_directly_issued_by(chain[position])
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise BadRequest(
            f"chain: certificate {position + 1} did not issue certificate {position}; put the leaf first,"
            " and each issuer behind the certificate that it issued"
        ) from None


def _warnings(chain: Sequence[x509.Certificate], now: datetime) -> list[str]:
    leaf = chain[0]
    warnings: list[str] = []
    for position, certificate in enumerate(chain, 1):
        warnings += _validity_warnings(certificate, position, now)
    if any(issuer.not_valid_after_utc < leaf.not_valid_after_utc for issuer in chain[1:]):
        warnings.append("an issuer's certificate ends before the leaf's")
    if len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
        warnings.append("the chain contains the root, which clients have already; remove it")
    if _value(leaf, x509.SubjectAlternativeName) is None:
        warnings.append("the leaf has no subject alternative name, and clients ignore the common name")
    constraints = _value(leaf, x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        warnings.append("the leaf is a CA certificate")
    usage = _value(leaf, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not (usage.digital_signature or usage.key_encipherment):
        warnings.append("the leaf's key usage does not allow TLS handshakes")
    return warnings


def _validity_warnings(certificate: x509.Certificate, position: int, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"certificate {position} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"]
    if now < certificate.not_valid_before_utc:
        return [f"certificate {position} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"]
    return []


def _value(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _spki(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

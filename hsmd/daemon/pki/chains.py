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
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import PublicKeyAlgorithmOID

from hsmd.daemon.pki import der
from hsmd.daemon.pki.distinguished_names import normalised, same_name, shown
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
    """When the leaf begins and ends (aware UTC), the chain in normalised PEM, and warnings for the operator."""

    not_after: datetime
    chain_pem: str
    warnings: tuple[str, ...]
    not_before: datetime


def check_chain(chain_pem: str, public_key: PublicKeyTypes, now: datetime | None = None) -> CertificateFacts:
    """Check that a chain is the certificate of this key, followed by its issuers, each the issuer of the one before.

    Whether clients trust the root is not checked. `now` (aware) is for the warnings; the default is the present time. Raises
    BadRequest with the next step.
    """
    documents = _documents(chain_pem)
    chain = [_certificate(position, document) for position, document in enumerate(documents, 1)]
    _check_different(chain, documents)
    _check_leaf(chain, public_key)
    for position in range(1, len(chain)):
        _check_issued(chain, position)
    warnings = _warnings(chain, now or datetime.now(UTC))
    clean = "".join(der.pem(_LABEL, document) for document in documents)
    leaf = chain[0]
    return CertificateFacts(leaf.not_valid_after_utc, clean, tuple(warnings), leaf.not_valid_before_utc)


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


def refuse_pss(certificate_pem: str) -> None:
    """Raise BadRequest if the first certificate is for an RSA-PSS key, which TLS servers cannot use with hsmd."""
    try:
        certificates = x509.load_pem_x509_certificates(certificate_pem.encode())
    except ValueError:
        return  # the worker says what is wrong with it
    if certificates and certificates[0].public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise BadRequest(f"certificate: {_PSS}")


_PSS = (
    "it is for an RSA-PSS key (id-RSASSA-PSS), with which TLS servers do not work with hsmd; use a certificate for an "
    "rsaEncryption key"
)


def _check_different(chain: Sequence[x509.Certificate], documents: Sequence[bytes]) -> None:
    for position, document in enumerate(documents):
        first = documents.index(document)
        if first != position:
            raise BadRequest(
                f"chain: certificates {first + 1} and {position + 1} ({shown(chain[first].subject)}) are the same,"
                " so one is there twice; remove one"
            )


def _check_leaf(chain: Sequence[x509.Certificate], public_key: PublicKeyTypes) -> None:
    ours = [_is_for(certificate, public_key) for certificate in chain]
    if ours[0]:
        return
    if any(ours):
        raise BadRequest(
            f"chain: the certificate of the key is {_named(chain, ours.index(True) + 1)} and not the first; put the leaf"
            " first, then its issuers"
        )
    if chain[0].public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise BadRequest(f"chain: it contains no certificate of this key: of the first, {_PSS}")
    raise BadRequest(
        f"chain: it contains no certificate of this key, the first is {shown(chain[0].subject)}; create a request with"
        " `hsmd key csr` and have it signed"
    )


def _is_for(certificate: x509.Certificate, public_key: PublicKeyTypes) -> bool:
    try:
        return _spki(certificate.public_key()) == _spki(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return False


def _check_issued(chain: Sequence[x509.Certificate], position: int) -> None:
    """Check that the certificate at `position`, counted from 1, was issued by the one behind it. Raises BadRequest."""
    issued, issuer = chain[position - 1], chain[position]
    fault = f"chain: certificate {position + 1} did not issue certificate {position}"
    if not same_name(issued.issuer, issuer.subject):
        raise BadRequest(
            f"{fault}, which names {shown(issued.issuer)} as its issuer and not {shown(issuer.subject)};"
            f" {_right_order(chain, position)}"
        )
    if (weak := _weak_hash(issued)) is not None:
        raise BadRequest(
            f"chain: {_named(chain, position)} is signed with {weak}, which TLS clients refuse; have it issued anew"
            " with SHA-256"
        )
    try:
        _verify(issued, issuer.public_key())
    except UnsupportedAlgorithm:
        raise BadRequest(
            f"chain: {_named(chain, position)} is signed with an algorithm that hsmd does not know"
            f" ({issued.signature_algorithm_oid.dotted_string}); use another issuer"
        ) from None
    except (ValueError, TypeError, InvalidSignature):
        raise BadRequest(
            f"{fault}: its name {shown(issuer.subject)} is right, but the signature is not by its key; give the CA's"
            " present certificate, or issue the leaf anew"
        ) from None


def _right_order(chain: Sequence[x509.Certificate], position: int) -> str:
    wanted = normalised(chain[position - 1].issuer)
    for other, certificate in enumerate(chain, 1):
        if other != position and normalised(certificate.subject) == wanted:
            return f"that is certificate {other}: put each issuer behind the certificate that it issued"
    return "put the leaf first, and each issuer behind the certificate that it issued"


def _weak_hash(certificate: x509.Certificate) -> str | None:
    """The name of a hash that clients refuse in signatures of certificates, if this one is signed with it."""
    try:
        found = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return _OLD_SIGNATURES.get(certificate.signature_algorithm_oid.dotted_string)
    return None if found is None else _WEAK_HASHES.get(found.name)


_WEAK_HASHES = {"sha1": "SHA-1", "md5": "MD5"}
_OLD_SIGNATURES = {"1.2.840.113549.1.1.2": "MD2", "1.2.840.113549.1.1.4": "MD5"}


def _verify(issued: x509.Certificate, public_key: PublicKeyTypes) -> None:
    """Raises InvalidSignature, ValueError, TypeError or UnsupportedAlgorithm unless the key signed the certificate."""
    parameters = issued.signature_algorithm_parameters
    signature, document, digest = (
        issued.signature,
        issued.tbs_certificate_bytes,
        issued.signature_hash_algorithm,
    )
    if isinstance(public_key, rsa.RSAPublicKey) and digest is not None:
        if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            raise TypeError
        public_key.verify(signature, document, parameters, digest)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        if not isinstance(parameters, ec.ECDSA):
            raise TypeError
        public_key.verify(signature, document, parameters)
    elif isinstance(public_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and digest is None:
        public_key.verify(signature, document)
    else:
        raise TypeError


def _named(chain: Sequence[x509.Certificate], position: int) -> str:
    return f"certificate {position} ({shown(chain[position - 1].subject)})"


def _warnings(chain: Sequence[x509.Certificate], now: datetime) -> list[str]:
    leaf = chain[0]
    warnings: list[str] = []
    for position, certificate in enumerate(chain, 1):
        warnings += _validity_warnings(certificate, _named(chain, position), now)
    for position, issuer in enumerate(chain[1:], 2):
        warnings += _issuer_warnings(issuer, _named(chain, position), position - 2)
    ending = [
        at for at, issuer in enumerate(chain[1:], 2) if issuer.not_valid_after_utc < leaf.not_valid_after_utc
    ]
    if ending:
        warnings.append(f"an issuer's certificate ends before the leaf's: {_named(chain, ending[0])}")
    if len(chain) > 1 and same_name(chain[-1].issuer, chain[-1].subject):
        warnings.append(
            f"the chain contains the root, which clients have already; remove {_named(chain, len(chain))}"
        )
    if _value(leaf, x509.SubjectAlternativeName) is None:
        warnings.append("the leaf has no subject alternative name, and clients ignore the common name")
    constraints = _value(leaf, x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        warnings.append("the leaf is a CA certificate")
    usage = _value(leaf, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not (usage.digital_signature or usage.key_encipherment):
        warnings.append("the leaf's key usage does not allow TLS handshakes")
    return warnings


def _validity_warnings(certificate: x509.Certificate, name: str, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"]
    if now < certificate.not_valid_before_utc:
        return [f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"]
    return []


def _issuer_warnings(issuer: x509.Certificate, name: str, below: int) -> list[str]:
    """What makes clients refuse an issuer with `below` intermediate certificates under it (RFC 5280, section 6.1.4)."""
    constraints = _value(issuer, x509.BasicConstraints)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        return [f"{name} is not a CA certificate, so clients refuse what it issued"]
    warnings = []
    if constraints.path_length is not None and below > constraints.path_length:
        warnings.append(f"{name} allows {constraints.path_length} CA certificates below it, and has {below}")
    usage = _value(issuer, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        warnings.append(f"{name} may not sign certificates, according to its key usage")
    return warnings


def _value(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _spki(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

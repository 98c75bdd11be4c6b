"""Self-signed certificates (RFC 5280): built and assembled here, signed by the caller in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki import der
from hsmd.daemon.pki.names import alternative_names, subject
from hsmd.errors import BadRequest, TokenFailure
from hsmd.purposes.x509 import ALGORITHM_IDENTIFIERS

_Extension = x509.Extension[x509.ExtensionType]

_VERSION_3 = 2
_MAX_SERIAL = 1 << 159
"""A serial number has at most 20 octets (RFC 5280, section 4.1.2.2)."""
_LONGEST_COMMON_NAME = 64
_NO_SHORT_NAME = "hsmd self-signed"


def build_self_signed_tbs(
    spki: bytes,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    not_before: datetime,
    not_after: datetime,
    serial: int,
    scheme: SignatureScheme,
) -> bytes:
    """The DER TBSCertificate that the key `spki` (DER SubjectPublicKeyInfo) has to sign with `scheme`.

    Times are aware and are cut to seconds. Raises BadRequest naming the field.
    """
    names = alternative_names(dns_names, ip_addresses)
    if not names:
        raise BadRequest("dns_names: give at least one host name or address for the certificate")
    if not 0 < serial < _MAX_SERIAL:
        raise BadRequest("serial: must be positive and below 2 to the 159th")
    if not_before >= not_after:
        raise BadRequest("days: the certificate must end after it begins")
    name = _name_for(names).public_bytes()
    return der.sequence(
        der.tlv(der.CONTEXT_0, der.integer(_VERSION_3)),
        der.integer(serial),
        ALGORITHM_IDENTIFIERS[scheme],
        name,
        der.sequence(der.time(not_before.astimezone(UTC)), der.time(not_after.astimezone(UTC))),
        name,
        spki,
        der.tlv(der.CONTEXT_3, der.sequence(*map(der.extension, _extensions(spki, names)))),
    )


def assemble_certificate(tbs: bytes, scheme: SignatureScheme, signature: bytes) -> str:
    """The certificate in PEM. Raises TokenFailure if the signature is not that of the key for these bytes."""
    document = der.sequence(tbs, ALGORITHM_IDENTIFIERS[scheme], der.bit_string(signature))
    certificate = x509.load_der_x509_certificate(document)
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature:
        raise TokenFailure(detail="the signature of a self-signed certificate did not verify") from None
    return der.pem("CERTIFICATE", document)


def _name_for(names: Sequence[x509.GeneralName]) -> x509.Name:
    """A name for issuer and subject: the issuer must not be empty (RFC 5280, section 4.1.2.4). Clients ignore it."""
    first = str(names[0].value)
    return subject(first if len(first) <= _LONGEST_COMMON_NAME else _NO_SHORT_NAME, "")


def _extensions(spki: bytes, names: Sequence[x509.GeneralName]) -> list[_Extension]:
    key_id = x509.SubjectKeyIdentifier.from_public_key(load_der_public_key(spki))  # type: ignore[arg-type]
    values: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_digital_signature(), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (key_id, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
    ]
    return [x509.Extension(value.oid, critical, value) for value, critical in values]


def _digital_signature() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Self-signed certificates (RFC 5280): built here, signed by the caller in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki.names import alternative_names, subject
from hsmd.daemon.pki.two_pass import Unsigned
from hsmd.errors import BadRequest

_MAX_SERIAL = 1 << 159
"""A serial number has at most 20 octets (RFC 5280, section 4.1.2.2)."""
_LONGEST_COMMON_NAME = 64
_NO_SHORT_NAME = "hsmd self-signed"


def self_signed_certificate(
    spki: bytes,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    not_before: datetime,
    not_after: datetime,
    serial: int,
    scheme: SignatureScheme,
) -> Unsigned[x509.Certificate]:
    """The certificate that the key `spki` (DER SubjectPublicKeyInfo) has to sign with `scheme`.

    Times are aware and are cut to seconds. Raises BadRequest naming the field.
    """
    names = alternative_names(dns_names, ip_addresses)
    if not names:
        raise BadRequest("dns_names: give at least one host name or address for the certificate")
    if not 0 < serial < _MAX_SERIAL:
        raise BadRequest("serial: must be positive and below 2 to the 159th")
    if not_before >= not_after:
        raise BadRequest("days: the certificate must end after it begins")
    name = _name_for(names)
    public_key: CertificatePublicKeyTypes = load_der_public_key(spki)  # type: ignore[assignment]
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=public_key,
        serial_number=serial,
        not_valid_before=not_before.astimezone(UTC).replace(tzinfo=None, microsecond=0),
        not_valid_after=not_after.astimezone(UTC).replace(tzinfo=None, microsecond=0),
    )
    for value, critical in _extensions(public_key, names):
        builder = builder.add_extension(value, critical)
    return Unsigned(builder, spki, scheme)


def key_usage(
    *, digital_signature: bool = False, key_encipherment: bool = False, certificates: bool = False
) -> x509.KeyUsage:
    """The key usage (RFC 5280, section 4.2.1.3) of a key for handshakes, or for certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name_for(names: Sequence[x509.GeneralName]) -> x509.Name:
    """A name for issuer and subject: the issuer must not be empty (RFC 5280, section 4.1.2.4). Clients ignore it."""
    first = str(names[0].value)
    return subject(first if len(first) <= _LONGEST_COMMON_NAME else _NO_SHORT_NAME, "")


def _extensions(
    public_key: CertificatePublicKeyTypes, names: Sequence[x509.GeneralName]
) -> list[tuple[x509.ExtensionType, bool]]:
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return [
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (key_id, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
    ]

"""What a certificate authority issues (RFC 5280): certificates and revocation lists, built here and signed in the token.

Key identifiers are hashes of keys, and that of the issuer is given alone, without its name and serial number, which would defeat
certificates that link one key of an authority to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import randbits

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki.certificates import key_usage
from hsmd.daemon.pki.two_pass import Unsigned
from hsmd.purposes import AuthorityConstraints
from hsmd.purposes.name_constraints import name_constraints

SERIAL_BITS = 128
USES = {
    "server": (ExtendedKeyUsageOID.SERVER_AUTH,),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "server-client": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}
"""Extended key usage by profile."""
REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "ca-compromise": x509.ReasonFlags.ca_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""Why a certificate was revoked (RFC 5280, section 5.3.1). A list says nothing for `unspecified`, as the RFC advises."""
_NEXT_KEY = x509.ObjectIdentifier("1.3.6.1.4.1.51483.2.1")
_SHA_256_OF_KEY = bytes.fromhex("302f300b06096086480165030402010420")
"""HashedRootKey (RFC 8649, section 3) up to the hash: SHA-256, and an OCTET STRING of 32 bytes."""


@dataclass(frozen=True, slots=True)
class Term:
    """From when to when something is valid: aware, cut to seconds."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority as issuer. `key_id` is the subject key identifier of its certificate."""

    name: x509.Name
    spki: bytes
    scheme: SignatureScheme
    key_id: bytes

    @classmethod
    def of_key(cls, name: x509.Name, spki: bytes, scheme: SignatureScheme) -> Issuer:
        """An authority whose certificate has the identifier that is given to its key here."""
        return cls(name, spki, scheme, key_id(spki))


@dataclass(frozen=True, slots=True)
class Revoked:
    """An entry of a revocation list; `reason` is of `REASONS`."""

    serial: int
    at: datetime
    reason: str


def random_serial() -> int:
    """A serial number of 128 random bits: not to be foreseen, and in a fleet of authorities never there twice."""
    return randbits(SERIAL_BITS) or 1


def key_id(spki: bytes) -> bytes:
    """The identifier of a key (RFC 5280, section 4.2.1.2, method 1)."""
    return x509.SubjectKeyIdentifier.from_public_key(_public_key(spki)).digest


def authority_certificate(
    issuer: Issuer,
    constraints: AuthorityConstraints,
    subject: x509.Name,
    spki: bytes,
    term: Term,
    serial: int,
    *,
    path_length: int,
    next_key: str,
) -> Unsigned[x509.Certificate]:
    """The certificate of an authority: its own, or of one that stands below it or follows it.

    `constraints` are those of the issuer, whose names the certificate repeats. `next_key` is a SHA-256 in hex, or empty.
    """
    builder = _begun(issuer, subject, spki, term, serial)
    values: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage(certificates=True), True),
        (name_constraints(constraints.permitted, constraints.excluded), True),
    ]
    if next_key:
        hashed = _SHA_256_OF_KEY + bytes.fromhex(next_key)
        values.append((x509.UnrecognizedExtension(_NEXT_KEY, hashed), False))
    return _finished(builder, values, issuer, spki)


def leaf_certificate(
    issuer: Issuer,
    profile: str,
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    spki: bytes,
    term: Term,
    serial: int,
    *,
    decrypts: bool = False,
    lists_at: Sequence[str] = (),
) -> Unsigned[x509.Certificate]:
    """A certificate of a server or client: `profile` is of `USES`. `decrypts` is for RSA keys of TLS 1.2 key exchange.

    `lists_at` are the URLs of the issuer's revocation list.
    """
    builder = _begun(issuer, subject, spki, term, serial)
    values: list[tuple[x509.ExtensionType, bool]] = []
    if names:
        values.append((x509.SubjectAlternativeName(names), not subject.rdns))
    values += [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(digital_signature=not decrypts, key_encipherment=decrypts), True),
        (x509.ExtendedKeyUsage(USES[profile]), False),
    ]
    if lists_at:
        full_name = [x509.UniformResourceIdentifier(url) for url in lists_at]
        point = x509.DistributionPoint(full_name, None, None, None)
        values.append((x509.CRLDistributionPoints([point]), False))
    return _finished(builder, values, issuer, spki)


def revocation_list(
    issuer: Issuer, number: int, this_update: datetime, next_update: datetime, revoked: Iterable[Revoked]
) -> Unsigned[x509.CertificateRevocationList]:
    """A revocation list (RFC 5280, section 5), complete and of this issuer alone."""
    entries = [_entry(each) for each in revoked]
    builder = x509.CertificateRevocationListBuilder(
        issuer.name, _naive(this_update), _naive(next_update), revoked_certificates=entries
    )
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(_of_issuer(issuer), critical=False)
    return Unsigned(builder, issuer.spki, issuer.scheme)


def _entry(revoked: Revoked) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(revoked.serial, _naive(revoked.at))
    reason = REASONS[revoked.reason]
    if reason is not x509.ReasonFlags.unspecified:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()


def _begun(
    issuer: Issuer, subject: x509.Name, spki: bytes, term: Term, serial: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer.name, subject, _public_key(spki), serial, _naive(term.begins), _naive(term.ends)
    )


def _finished(
    builder: x509.CertificateBuilder,
    values: Sequence[tuple[x509.ExtensionType, bool]],
    issuer: Issuer,
    spki: bytes,
) -> Unsigned[x509.Certificate]:
    subject_id = x509.SubjectKeyIdentifier.from_public_key(_public_key(spki))
    for value, critical in (*values, (subject_id, False), (_of_issuer(issuer), False)):
        builder = builder.add_extension(value, critical)
    return Unsigned(builder, issuer.spki, issuer.scheme)


def _of_issuer(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(issuer.key_id, None, None)


def _public_key(spki: bytes) -> CertificatePublicKeyTypes:
    return load_der_public_key(spki)  # type: ignore[return-value]


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)

"""When a node takes the next trust anchor: if a link by a key that it trusts leads to it, and that key is meant to follow.

A link alone shows nothing: the certificate of any CA below the anchor looks the same, and whoever has the key of such a CA makes
the other half of an update. So the anchor itself names the key that follows it (RFC 8649), or an operator has approved it.

A link certificate is never a trust anchor itself. TLS libraries differ there: some trust whatever stands in the file of anchors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmd.anchors.certificates import check_list
from hsmd.anchors.name_limits import permits_no_more
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate
from hsmd.errors import PurposeMismatch
from hsmd.purposes import next_key
from hsmd.purposes.next_key import read_next_key

Kind = TypeVar("Kind", bound=x509.ExtensionType)

ANCHOR = "the anchor"
"""How messages name the anchor that issued the link. Old ones may lack a key usage, which RFC 5280 requires of new ones."""
_NEXT_KEY = x509.ObjectIdentifier(next_key.OID)
FEWEST_RSA_BITS = 2048
"""TLS libraries refuse shorter keys in a chain."""
_UNVERIFIED = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)


def check_anchors(certificates: Sequence[x509.Certificate], what: str = "anchors") -> None:
    """Raise CertificatesInvalid unless each is the self-signed certificate of a CA, as a trust anchor is: links are not."""
    check_list(certificates, what)
    for number, certificate in enumerate(certificates, 1):
        if not is_issued_by(certificate, certificate) or not _is_of_a_ca(certificate):
            raise CertificatesInvalid(
                f"{what}: certificate {number} is not the self-signed certificate of a CA; links and intermediate"
                " certificates belong into chains"
            )


def accept(
    anchors: Sequence[x509.Certificate], update: RootUpdate, now: datetime, approved: bytes = b""
) -> x509.Certificate:
    """The new trust anchor that an update brings to a node that holds `anchors`; `now` is aware.

    The link verifies under an anchor that is held, and the new certificate verifies under exactly the key in the link. That
    key is the one to which the anchor commits (RFC 8649, section 3), by SHA-256. Where the anchor has no commitment, it is
    the key that an operator has approved: `approved` is the SHA-256 of its SubjectPublicKeyInfo, from a source that neither
    the old CA nor the sender of the update can write, such as an approved plan. If both are there, both hold. The name
    decides nothing: a subject that is that of the anchor, or of the next generation, is written by whoever has the link.

    All of them are CA certificates that are valid now and name each other by their key identifiers. The new one permits no
    more names and uses than link and anchor, no longer paths than the anchor, and is valid no longer than it is from
    beginning to end. Raises UpdateRefused if one of this is not so, CertificatesInvalid if an anchor is none.
    """
    check_anchors(anchors)
    new, link = update.new_with_new, update.new_with_old
    if link is None:
        raise UpdateRefused(
            "newWithOld is missing: no anchor is taken without a link by a key that is trusted"
        )
    old = _anchor_of(anchors, link)
    for certificate, name in ((old, ANCHOR), (link, "newWithOld"), (new, "newWithNew")):
        _check_authority(certificate, name, now)
    _check_link(link, old)
    _check_meant(link, old, approved)
    _check_new(new, link)
    _check_limits(new, old)
    if update.old_with_new is not None:
        _check_back(update.old_with_new, old, new)
    return new


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the names fit, and the signature verifies with the key of `issuer`. Those with SHA-1 or MD5 never do."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except _UNVERIFIED:
        return False
    return True


def _anchor_of(anchors: Iterable[x509.Certificate], link: x509.Certificate) -> x509.Certificate:
    """The anchor that issued the link: of several certificates of one key one with a commitment, and of those the last to end."""
    found = [anchor for anchor in anchors if is_issued_by(link, anchor)]
    if not found:
        raise UpdateRefused(
            "newWithOld does not verify under an anchor that is held; it is of another CA, or altered"
        )
    return max(found, key=lambda anchor: (_commitment(anchor) is not None, anchor.not_valid_after_utc))


def _check_authority(certificate: x509.Certificate, name: str, now: datetime) -> None:
    """Raise UpdateRefused unless peers accept a certificate as one of a CA now (RFC 5280, sections 4.2.1 and 6.1)."""
    if now < certificate.not_valid_before_utc:
        raise UpdateRefused(
            f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if now > certificate.not_valid_after_utc:
        raise UpdateRefused(f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if not _is_of_a_ca(certificate) or (name != ANCHOR and _value(certificate, x509.KeyUsage) is None):
        raise UpdateRefused(
            f"{name} is not a CA certificate that may sign certificates (CA:true, keyCertSign)"
        )
    key = _key(certificate, name)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < FEWEST_RSA_BITS:
        raise UpdateRefused(f"{name} is for an RSA key of {key.key_size} bits, which TLS peers refuse")
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise UpdateRefused(
                f"{name} has a critical extension that is unknown: {extension.oid.dotted_string}"
            )


def _check_link(link: x509.Certificate, old: x509.Certificate) -> None:
    if _spki(link) == _spki(old):
        raise UpdateRefused("newWithOld is for the key of the anchor itself, and leads to no other one")
    _check_identifiers(link, old, "newWithOld", ANCHOR)
    constraints = _value(old, x509.BasicConstraints)
    if constraints is not None and constraints.path_length == 0 and link.subject != old.subject:
        raise UpdateRefused("the anchor permits no CA below it (path length 0), so peers refuse newWithOld")


def _check_meant(link: x509.Certificate, old: x509.Certificate, approved: bytes) -> None:
    """Raise UpdateRefused unless the key in the link is the one that is to follow that of the anchor."""
    digest, committed = sha256(_spki(link)).digest(), _commitment(old)
    if committed is not None and committed != digest:
        raise UpdateRefused("the anchor commits to another key than that of newWithOld (RFC 8649)")
    if approved and approved != digest:
        raise UpdateRefused("newWithOld is for another key than the one that was approved")
    if committed is None and not approved:
        raise UpdateRefused(
            "the anchor does not commit to its next key (RFC 8649), and none was approved; any CA below it could have"
            " made this update"
        )


def _commitment(anchor: x509.Certificate) -> bytes | None:
    """The SHA-256 of the next key, None without the extension. Raises UpdateRefused for one that cannot be read."""
    try:
        extension = anchor.extensions.get_extension_for_oid(_NEXT_KEY)
    except x509.ExtensionNotFound:
        return None
    try:
        return read_next_key(extension.value.public_bytes(), "the commitment of the anchor")
    except PurposeMismatch as mismatch:
        raise UpdateRefused(f"{ANCHOR}: {mismatch.text}; only SHA-256 is known") from None


def _check_limits(new: x509.Certificate, old: x509.Certificate) -> None:
    """Raise UpdateRefused if the new anchor permits what the old one does not: names, uses, longer paths, or a longer term."""
    if not permits_no_more(_value(new, x509.NameConstraints), _value(old, x509.NameConstraints)):
        raise UpdateRefused("newWithNew permits names that the anchor does not (name constraints)")
    uses = _value(old, x509.ExtendedKeyUsage)
    if uses is not None and not _uses(new) <= set(uses):
        raise UpdateRefused("newWithNew is for uses that the anchor is not for (extended key usage)")
    most, path = (_path_length(certificate) for certificate in (old, new))
    if most is not None and (path is None or path > most):
        raise UpdateRefused(f"newWithNew permits longer paths than the anchor (path length {most})")
    if _term(new) > _term(old):
        raise UpdateRefused(
            f"newWithNew is valid for {_term(new).days} days, longer than the anchor with {_term(old).days}; have it issued"
            " for a term that is not longer"
        )


def _path_length(certificate: x509.Certificate) -> int | None:
    constraints = _value(certificate, x509.BasicConstraints)
    return None if constraints is None else constraints.path_length


def _term(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


def _check_new(new: x509.Certificate, link: x509.Certificate) -> None:
    if _spki(new) != _spki(link):
        raise UpdateRefused("newWithNew is for another key than newWithOld")
    if new.subject != link.subject:
        raise UpdateRefused("newWithNew has another name than newWithOld")
    if not is_issued_by(new, link) or not is_issued_by(new, new):
        raise UpdateRefused("newWithNew is not signed by the key that it is for")
    _check_identifiers(new, link, "newWithNew", "newWithOld")
    if _identifier(new) != _identifier(link):
        raise UpdateRefused("newWithNew and newWithOld have different identifiers for one key")
    if not permits_no_more(_value(new, x509.NameConstraints), _value(link, x509.NameConstraints)):
        raise UpdateRefused("newWithNew permits names that newWithOld does not (name constraints)")
    uses = _value(link, x509.ExtendedKeyUsage)
    if uses is not None and not _uses(new) <= set(uses):
        raise UpdateRefused("newWithNew is for uses that newWithOld is not for (extended key usage)")


def _check_back(back: x509.Certificate, old: x509.Certificate, new: x509.Certificate) -> None:
    """The old key certified by the new one: of no weight for the decision, but wrong only in updates that were altered."""
    _key(back, "oldWithNew")
    if _spki(back) != _spki(old) or back.subject != old.subject:
        raise UpdateRefused("oldWithNew is not for the key of the anchor that issued newWithOld")
    if not is_issued_by(back, new):
        raise UpdateRefused("oldWithNew is not signed by the new key")


def _check_identifiers(
    issued: x509.Certificate, issuer: x509.Certificate, name: str, issuer_name: str
) -> None:
    """A key identifier in the new certificates (RFC 5280, section 4.2.1.2), and that of the issuer where it is given.

    Issuer and serial number in place of it would tie a certificate to one certificate of the key, and defeat links.
    """
    if _identifier(issued) is None:
        raise UpdateRefused(f"{name} has no subject key identifier")
    authority = _value(issued, x509.AuthorityKeyIdentifier)
    if authority is None:
        if issued.issuer == issued.subject and name == "newWithNew":
            return  # RFC 5280, section 4.2.1.1: it may be left out where it is the subject's
        raise UpdateRefused(f"{name} has no authority key identifier")
    if authority.authority_cert_serial_number is not None or authority.authority_cert_issuer is not None:
        raise UpdateRefused(f"{name} names its issuer by serial number; a key identifier alone is right")
    of_issuer = _identifier(issuer)
    if of_issuer is not None and authority.key_identifier != of_issuer:
        raise UpdateRefused(f"the authority key identifier of {name} is not that of {issuer_name}")


def _is_of_a_ca(certificate: x509.Certificate) -> bool:
    constraints, usage = _value(certificate, x509.BasicConstraints), _value(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def _identifier(certificate: x509.Certificate) -> bytes | None:
    found = _value(certificate, x509.SubjectKeyIdentifier)
    return None if found is None else found.digest


def _uses(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    """What a certificate is for by its extended key usage; without one, for anything."""
    uses = _value(certificate, x509.ExtendedKeyUsage)
    return set(uses) if uses is not None else {ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def _value(certificate: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _key(certificate: x509.Certificate, name: str) -> PublicKeyTypes:
    """The key of a certificate that is not verified yet. Raises UpdateRefused."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise UpdateRefused(
            f"{name} is for a key of an unknown kind, or for none; use one that TLS peers know"
        ) from None


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

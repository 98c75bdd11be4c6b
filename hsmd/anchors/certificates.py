"""Single certificates: read so that they are what they were encoded from, and bounded. Shared by all forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.anchors.problems import CertificatesInvalid
from hsmd.errors import PurposeMismatch
from hsmd.purposes.asn1 import BIT_STRING, CONTEXT_0, INTEGER, SEQUENCE, DerReader

MAX_CERTIFICATES = 256
"""In one file or message. Trust stores of whole operating systems have about 150."""
MAX_CERTIFICATE_BYTES = 65_536
MAX_BYTES = 1_048_576
"""Of one file or message, in any form."""

UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises for certificates, requests and their extensions that others have made."""


def check_size(data: bytes, what: str) -> None:
    """Raise CertificatesInvalid for more than MAX_BYTES; to be called before any other work."""
    if len(data) > MAX_BYTES:
        raise CertificatesInvalid(
            f"{what}: at most {MAX_BYTES} bytes; give the certificates that are needed only"
        )


def read(document: bytes, what: str) -> x509.Certificate:
    """The certificate in DER. `what` names it in messages. Raises CertificatesInvalid.

    Names, dates and extensions can be read, and the certificate encodes to the same bytes again: what is compared here is
    what TLS libraries load.
    """
    if len(document) > MAX_CERTIFICATE_BYTES:
        raise CertificatesInvalid(f"{what} has more than {MAX_CERTIFICATE_BYTES} bytes")
    with der_faults(what):
        _check_frame(DerReader(document, "an X.509 certificate"))
    try:
        certificate = x509.load_der_x509_certificate(document)
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.version
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        again = certificate.public_bytes(Encoding.DER)
    except UNREADABLE:
        raise CertificatesInvalid(f"{what} is not a well-formed X.509 certificate; copy it again") from None
    if again != document:
        raise CertificatesInvalid(f"{what} is not encoded as X.509 requires (DER); have it issued anew")
    return certificate


def _check_frame(whole: DerReader) -> None:
    """Raise PurposeMismatch for what the library lets pass: a serial number that is not positive, or a signature of broken bytes.

    RFC 5280, section 4.1.2.2, and OpenSSL, which refuses signatures with unused bits; they are not part of what is signed.
    """
    members = whole.enter(SEQUENCE)
    signed = members.enter(SEQUENCE)
    if signed.next_tag() == CONTEXT_0:
        signed.content(CONTEXT_0)
    if int.from_bytes(signed.content(INTEGER), signed=True) <= 0:
        raise whole.mismatch("its serial number is not positive")
    members.content(SEQUENCE)
    if members.content(BIT_STRING)[:1] != b"\0":
        raise whole.mismatch("its signature is not of whole bytes")


def der(certificate: x509.Certificate) -> bytes:
    """The bytes of a certificate."""
    return certificate.public_bytes(Encoding.DER)


def check_list(certificates: Sequence[x509.Certificate], what: str) -> None:
    """Raise CertificatesInvalid for no certificate, too many, or one that is there twice. `what` names the list."""
    if not certificates:
        raise CertificatesInvalid(f"{what}: it contains no certificate")
    if len(certificates) > MAX_CERTIFICATES:
        raise too_many(what)
    first: dict[bytes, int] = {}
    for number, document in enumerate(map(der, certificates), 1):
        if (earlier := first.setdefault(document, number)) != number:
            raise CertificatesInvalid(f"{what}: certificates {earlier} and {number} are the same; remove one")


def read_all(documents: Iterable[bytes], what: str) -> tuple[x509.Certificate, ...]:
    """The certificates in a list of DER documents, counted from 1 in messages. Raises CertificatesInvalid."""
    certificates = tuple(
        read(document, f"{what}: certificate {number}") for number, document in enumerate(documents, 1)
    )
    check_list(certificates, what)
    return certificates


def too_many(what: str) -> CertificatesInvalid:
    """The error for more than MAX_CERTIFICATES."""
    return CertificatesInvalid(
        f"{what}: at most {MAX_CERTIFICATES} certificates; give those that are needed only"
    )


@contextmanager
def der_faults(what: str) -> Iterator[None]:
    """Faults of the DER reader as CertificatesInvalid."""
    try:
        yield
    except PurposeMismatch as fault:
        raise CertificatesInvalid(f"{what}: {fault.text}") from None

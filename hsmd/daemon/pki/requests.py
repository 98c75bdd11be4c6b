"""PKCS#10 certificate requests (RFC 2986): built and assembled here, signed by the caller in between."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki import der
from hsmd.daemon.pki.names import alternative_names, subject
from hsmd.errors import BadRequest, TokenFailure
from hsmd.purposes.x509 import ALGORITHM_IDENTIFIERS

_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")


def build_request_info(
    spki: bytes,
    common_name: str = "",
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    organization: str = "",
) -> bytes:
    """The DER CertificationRequestInfo that the key `spki` (DER SubjectPublicKeyInfo) has to sign.

    Raises BadRequest naming the field.
    """
    names = alternative_names(dns_names, ip_addresses)
    if not names and not common_name:
        raise BadRequest("dns_names: give at least one host name or address for the certificate")
    name = subject(common_name, organization)
    return der.sequence(
        der.integer(0), name.public_bytes(), spki, der.tlv(der.CONTEXT_0, _extensions(name, names))
    )


def assemble_request(info: bytes, scheme: SignatureScheme, signature: bytes) -> str:
    """The request in PEM. Raises TokenFailure if the signature is not that of the key for these bytes."""
    document = der.sequence(info, ALGORITHM_IDENTIFIERS[scheme], der.bit_string(signature))
    if not x509.load_der_x509_csr(document).is_signature_valid:
        raise TokenFailure(detail="the signature of a certificate request did not verify")
    return der.pem("CERTIFICATE REQUEST", document)


def _extensions(name: x509.Name, names: Sequence[x509.GeneralName]) -> bytes:
    """The attribute extensionRequest (RFC 2985, section 5.4.2); empty if there are no alternative names."""
    if not names:
        return b""
    value = x509.SubjectAlternativeName(names)
    # Critical if the subject is empty (RFC 5280, section 4.2.1.6).
    extension = der.extension(x509.Extension(value.oid, not name.rdns, value))
    return der.sequence(der.object_identifier(_EXTENSION_REQUEST), der.tlv(der.SET, der.sequence(extension)))

"""PKCS#10 certificate requests (RFC 2986): built here, signed by the caller in between."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki.names import alternative_names, subject
from hsmd.daemon.pki.two_pass import Unsigned
from hsmd.errors import BadRequest


def certificate_request(
    spki: bytes,
    scheme: SignatureScheme,
    common_name: str = "",
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    organization: str = "",
) -> Unsigned[x509.CertificateSigningRequest]:
    """The request that the key `spki` (DER SubjectPublicKeyInfo) has to sign with `scheme`.

    Raises BadRequest naming the field.
    """
    names = alternative_names(dns_names, ip_addresses)
    if not names and not common_name:
        raise BadRequest("dns_names: give at least one host name or address for the certificate")
    name = subject(common_name, organization)
    builder = x509.CertificateSigningRequestBuilder(subject_name=name)
    if names:
        # Critical if the subject is empty (RFC 5280, section 4.2.1.6).
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not name.rdns)
    return Unsigned(builder, spki, scheme)

"""A certificate of a version that X.509 does not have, for which `cryptography` has an exception of its own."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import der

_VERSION_3 = bytes.fromhex("a003020102")


def of_unknown_version(pem: str) -> tuple[str, bytes]:
    """The certificate in PEM and DER, with another version number."""
    document = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    assert document.count(_VERSION_3) == 1
    changed = document.replace(_VERSION_3, _VERSION_3[:-1] + b"\x05")
    return der.pem("CERTIFICATE", changed), changed

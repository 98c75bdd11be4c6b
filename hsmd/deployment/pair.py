"""A certificate chain and the key reference that belongs to it, parsed from bytes that are not trusted."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.client import keyref
from hsmd.client.keyref import KeyReference
from hsmd.errors import BadRequest
from hsmd.protocol.messages import Name

MAX_CHAIN_BYTES = 128 << 10
"""More than a daemon accepts for a chain."""
MAX_REFERENCE_BYTES = 16 << 10
"""More than the PEM of the longest reference has (`keyref.MAX_DER_BYTES`)."""
MAX_CERTIFICATES = 16


@dataclass(frozen=True, slots=True)
class Pair:
    """A chain, leaf first, and the reference to the leaf's key."""

    reference: KeyReference
    certificates: Sequence[x509.Certificate]

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate of the key."""
        return self.certificates[0]

    @property
    def chain_pem(self) -> str:
        """The chain written anew: nothing but certificates is in it, whatever it was parsed from."""
        return "".join(each.public_bytes(Encoding.PEM).decode() for each in self.certificates)

    @property
    def reference_pem(self) -> str:
        """The key reference, written anew."""
        return keyref.encode(self.reference)

    def check_dates(self, now: datetime) -> None:
        """Raises BadRequest if the leaf is not valid yet, or not any more."""
        begin, end = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        if now < begin:
            raise BadRequest(f"the certificate is not valid before {begin:%Y-%m-%d %H:%M}Z")
        if now >= end:
            raise BadRequest(f"the certificate ended on {end:%Y-%m-%d %H:%M}Z")


def check_name(name: str) -> None:
    """Raises BadRequest unless `name` can be the name of a key, and so of a file in a directory."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise BadRequest("not the name of a key") from None


def leaf_digest(chain: bytes) -> str:
    """SHA-256 of the first certificate of a chain, in hexadecimal; empty if there is none."""
    end = b"-----END CERTIFICATE-----"
    try:
        first = chain[: chain.index(end) + len(end)].decode("ascii")
        return hashlib.sha256(
            ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN CERTIFICATE-----") :])
        ).hexdigest()
    except ValueError:
        return ""


def parse(name: str, chain: bytes, reference: bytes) -> Pair:
    """The pair for the key `name`. Raises BadRequest, whose text has nothing of the content, if it is none."""
    parsed = _reference(reference)
    if parsed.name != name:
        raise BadRequest("the key reference is for a key of another name")
    return of_key(parsed, chain)


def of_key(reference: KeyReference, chain: bytes) -> Pair:
    """As `parse`, with a reference that is known."""
    certificates = _certificates(chain)
    try:
        public_key = (
            certificates[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest("the public key of the certificate cannot be read") from None
    if public_key != reference.public_key:
        raise BadRequest("the certificate is for another key than the key reference")
    return Pair(reference, certificates)


def _reference(content: bytes) -> KeyReference:
    if len(content) > MAX_REFERENCE_BYTES:
        raise BadRequest(f"the key reference has more than {MAX_REFERENCE_BYTES} bytes")
    return keyref.decode(content.decode("ascii", "replace"))


def _certificates(chain: bytes) -> Sequence[x509.Certificate]:
    if len(chain) > MAX_CHAIN_BYTES:
        raise BadRequest(f"the certificate chain has more than {MAX_CHAIN_BYTES} bytes")
    try:
        found = x509.load_pem_x509_certificates(chain)
    except (ValueError, x509.InvalidVersion):
        raise BadRequest("the certificate chain is damaged, or not PEM") from None
    if not 1 <= len(found) <= MAX_CERTIFICATES:
        raise BadRequest(f"the certificate chain has not 1 to {MAX_CERTIFICATES} certificates")
    return found

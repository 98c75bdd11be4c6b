"""The hash of the next key of an authority, in its certificate (RFC 8649, section 3): what the present key commits to."""

from __future__ import annotations

from hsmd.purposes import asn1
from hsmd.purposes.asn1 import DerReader

OID = "1.3.6.1.4.1.51483.2.1"
"""id-ce-hashOfRootKey."""
_OCTET_STRING = 0x04
_DIGEST_BYTES = 32
_SHA_256 = (bytes.fromhex("300b0609608648016503040201"), bytes.fromhex("300d06096086480165030402010500"))
"""AlgorithmIdentifier without parameters, and with NULL."""


def read_next_key(value: bytes, what: str) -> bytes:
    """The SHA-256 of the SubjectPublicKeyInfo of the next key, from the value of the extension; `what` names it in errors.

    Raises PurposeMismatch for other hashes, and for anything that is not a HashedRootKey.
    """
    outer = DerReader(value, what)
    members = outer.enter(asn1.SEQUENCE)
    outer.finish()
    algorithm, digest = members.whole(asn1.SEQUENCE), members.content(_OCTET_STRING)
    members.finish()
    if algorithm not in _SHA_256 or len(digest) != _DIGEST_BYTES:
        raise outer.mismatch("the hash of the next key is not a SHA-256")
    return digest

"""The signature schemes of certificates and certificate requests."""

from __future__ import annotations

from hsmd.algorithms import Family, KeyType, SignatureScheme, schemes_for


def default_scheme(key_type: KeyType) -> SignatureScheme:
    """The scheme that every CA accepts for a type of key: PKCS #1 v1.5 with SHA-256 for RSA, the hash of the curve for EC."""
    if key_type.facts.family is Family.RSA:
        return SignatureScheme.RSA_PKCS1_SHA256
    return schemes_for(key_type)[0]

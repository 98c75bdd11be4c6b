"""Mechanisms: which PKCS#11 mechanism makes a signature of a scheme, and which ones a token needs for a key.

Messages are hashed here and the token gets the digest. That needs one mechanism for each padding instead of one for each
hash, works the same for `sign-digest`, and sends less to a remote HSM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pkcs11 import MGF, KeyType as KeyKind, Mechanism

from hsmd.algorithms import SCHEMES, Family, KeyType, Padding, SignatureScheme
from hsmd.purposes import KeyUse, Purpose, use_of

DIGEST_INFO: dict[str, bytes] = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""DER of DigestInfo up to the digest (RFC 8017, section 9.2, note 1)."""

HASHES: dict[str, Callable[[bytes], Any]] = {name: getattr(hashlib, name) for name in DIGEST_INFO}

_PSS_HASH = {
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
_SIGNING = {Family.EC: Mechanism.ECDSA, Family.ED25519: Mechanism.EDDSA}
_GENERATION = {
    Family.RSA: Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    Family.EC: Mechanism.EC_KEY_PAIR_GEN,
    Family.ED25519: Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
}
KIND_OF_FAMILY = {Family.RSA: KeyKind.RSA, Family.EC: KeyKind.EC, Family.ED25519: KeyKind.EC_EDWARDS}

RAW_RSA = Mechanism.RSA_X_509
"""For premaster secrets: hsmd removes the padding, in the same way if it is invalid (docs/adr/0002)."""

USED = frozenset(
    {
        *_SIGNING.values(),
        *_GENERATION.values(),
        Mechanism.RSA_PKCS,
        Mechanism.RSA_PKCS_PSS,
        Mechanism.RSA_PKCS_OAEP,
        RAW_RSA,
    }
)


def signing(scheme: SignatureScheme) -> tuple[Mechanism, tuple[Any, ...] | None]:
    """Mechanism and parameter to sign a digest (Ed25519: the message) with `scheme`."""
    facts = SCHEMES[scheme]
    if facts.padding is Padding.PSS:
        return Mechanism.RSA_PKCS_PSS, (*_PSS_HASH[facts.hash], facts.hash_bytes)
    if facts.padding is Padding.PKCS1:
        return Mechanism.RSA_PKCS, None
    return _SIGNING[facts.family], None


def generation(key_type: KeyType) -> Mechanism:
    """The mechanism that generates key pairs of this type."""
    return _GENERATION[key_type.facts.family]


def needed(key_type: KeyType, purposes: frozenset[Purpose]) -> frozenset[Mechanism]:
    """The mechanisms that a token needs to use a key with this ceiling."""
    use = use_of(purposes)
    if use is KeyUse.DECRYPT:
        return frozenset({RAW_RSA})
    if use is KeyUse.UNWRAP:
        return frozenset({Mechanism.RSA_PKCS_OAEP})
    if key_type.facts.family is Family.RSA:
        return frozenset({Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS})
    return frozenset({_SIGNING[key_type.facts.family]})

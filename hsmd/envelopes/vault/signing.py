"""Signatures by the signing half of a management key: over a context, which names what is signed, and the text.

Signed is `"hsmd vault " kind " v1" 00 || text`. So a signature of one kind of text is none of another kind, and none in
another protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hsmd.envelopes.vault.public_keys import load
from hsmd.errors import EnvelopeInvalid, ProofInvalid

MIN_RSA_BITS = 3_072
MAX_SIGNATURE_BYTES = 1_024
"""Of an RSA key of 8192 bits."""
PSS_SALT_BYTES = 32

SigningPrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Kind(StrEnum):
    """What is signed."""

    MANAGEMENT_KEY = "management-key"
    RECORD = "record"
    PROOF = "proof"
    POSSESSION = "possession"


def context(kind: Kind) -> bytes:
    """What is signed before the text."""
    return f"hsmd vault {kind} v1".encode() + b"\0"


def to_be_signed(kind: Kind, text: bytes) -> bytes:
    """The whole input of the signature, for a token that makes it."""
    return context(kind) + text


@dataclass(frozen=True, slots=True)
class SigningPublicKey:
    """The public signing key of an owner: P-256 (ECDSA with SHA-256), Ed25519, or RSA from 3072 bits (PSS, SHA-256)."""

    spki: bytes
    key: _PublicKey

    @classmethod
    def from_spki(cls, der: bytes) -> SigningPublicKey:
        """The key of a SubjectPublicKeyInfo. Raises EnvelopeInvalid unless statements can be signed with it."""
        key = load(der)
        fits = (
            isinstance(key, ed25519.Ed25519PublicKey)
            or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1))
            or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS)
        )
        if not fits:
            raise EnvelopeInvalid(f"signing key: choose P-256, Ed25519, or RSA from {MIN_RSA_BITS} bits")
        assert isinstance(key, _PublicKey), "one of the three"
        return cls(der, key)

    def verify(self, kind: Kind, text: bytes, signature: bytes) -> None:
        """Raises ProofInvalid unless `signature` is by this key over a text of this kind."""
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise ProofInvalid(f"a signature of the owner has more than {MAX_SIGNATURE_BYTES} bytes")
        try:
            _verify(self.key, to_be_signed(kind, text), signature)
        except InvalidSignature:
            raise ProofInvalid(
                f"the owner's signature does not fit this {kind} and the signing key"
            ) from None


def sign(key: SigningPrivateKey, kind: Kind, text: bytes) -> bytes:
    """The signature over a text, made in software. The key must be one that `SigningPublicKey` takes."""
    data = to_be_signed(kind, text)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    return key.sign(data, pss(), hashes.SHA256())


def raw_to_der(raw: bytes) -> bytes:
    """An ECDSA signature as a token makes it (r || s, PKCS #11) in the form that is verified (DER, RFC 3279).

    Raises EnvelopeInvalid unless both have 32 bytes.
    """
    if len(raw) != 64:
        raise EnvelopeInvalid("signature: ECDSA on P-256 gives 64 bytes, r and s")
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def pss() -> padding.PSS:
    """RSASSA-PSS (RFC 8017, section 8.1) with SHA-256, also in MGF1, and a salt of 32 bytes."""
    return padding.PSS(padding.MGF1(hashes.SHA256()), PSS_SALT_BYTES)


def _verify(key: _PublicKey, data: bytes, signature: bytes) -> None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    else:
        key.verify(signature, data, pss(), hashes.SHA256())

"""Keys that envelopes are sealed to, and the 32 bytes that name one in a header."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.envelopes.header import Header
from hsmd.errors import EnvelopeInvalid


@dataclass(frozen=True, slots=True)
class HybridPublicKey:
    """Recipient of MLKEM768-X25519, known as X-Wing."""

    mlkem768: mlkem.MLKEM768PublicKey
    x25519: x25519.X25519PublicKey

    def spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER with id-XWing: ML-KEM key, then X25519 key (draft-connolly-cfrg-xwing-kem)."""
        return _XWING_HEAD + self.mlkem768.public_bytes_raw() + self.x25519.public_bytes_raw()

    @classmethod
    def from_spki(cls, der: bytes) -> HybridPublicKey:
        """The key of these bytes. Raises EnvelopeInvalid unless `spki` makes exactly these bytes of it."""
        head, middle = len(_XWING_HEAD), len(_XWING_HEAD) + MLKEM768_BYTES
        if len(der) != middle + X25519_BYTES or not der.startswith(_XWING_HEAD):
            raise EnvelopeInvalid("not the SubjectPublicKeyInfo of a hybrid key of ML-KEM-768 and X25519")
        try:
            first = mlkem.MLKEM768PublicKey.from_public_bytes(der[head:middle])
        except (ValueError, UnsupportedAlgorithm):
            raise EnvelopeInvalid(
                "the ML-KEM-768 key in this hybrid key is invalid, or the cryptography package here lacks ML-KEM"
            ) from None
        return cls(first, x25519.X25519PublicKey.from_public_bytes(der[middle:]))


@dataclass(frozen=True, slots=True)
class HybridPrivateKey:
    """The private half of a `HybridPublicKey`."""

    mlkem768: mlkem.MLKEM768PrivateKey = field(repr=False)
    x25519: x25519.X25519PrivateKey = field(repr=False)

    def public_key(self) -> HybridPublicKey:
        """The public half."""
        return HybridPublicKey(self.mlkem768.public_key(), self.x25519.public_key())


@dataclass(frozen=True, slots=True)
class EcdhKey:
    """A P-256 key whose private half is elsewhere, such as in a token.

    `exchange` gets the sender's ephemeral key and returns the x-coordinate of the common point, 32 bytes (the value of
    CKM_ECDH1_DERIVE with CKD_NULL). What it raises is raised by `opening.open_envelope`.
    """

    public: ec.EllipticCurvePublicKey
    exchange: Callable[[ec.EllipticCurvePublicKey], bytes] = field(repr=False)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self.public


@dataclass(frozen=True, slots=True)
class SymmetricKey:
    """An AES-256 key, which both seals and opens. Raises EnvelopeInvalid unless it has 32 bytes."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise EnvelopeInvalid("a symmetric key that envelopes are sealed to has 32 bytes")

    def public_key(self) -> SymmetricKey:
        """The key itself: whoever seals to it can also open."""
        return self

    @property
    def check_value(self) -> bytes:
        """The 32 bytes that stand for the key: SHA-256(context || HMAC-SHA256(key, "check")).

        It shows which key is meant, and nothing of a key that is random.
        """
        return sha256(_SYMMETRIC_CONTEXT + hmac.digest(self.key, b"check", "sha256")).digest()


PublicKey = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey | HybridPublicKey | SymmetricKey
)
"""What seals."""
PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | EcdhKey
    | x25519.X25519PrivateKey
    | HybridPrivateKey
    | SymmetricKey
)
"""What opens."""
MLKEM768_BYTES, X25519_BYTES = 1_184, 32
"""Lengths of the two public keys in a hybrid one."""
_SYMMETRIC_CONTEXT = b"hsmd vault symmetric v1\0"

# SEQUENCE { SEQUENCE { OBJECT IDENTIFIER 1.3.6.1.4.1.62253.25722 }, BIT STRING of 1216 bytes }
_XWING_HEAD = bytes.fromhex("308204d4300d060b2b0601040183e62d81c87a038204c100")


def digest(key: PublicKey) -> bytes:
    """SHA-256 of the key as SubjectPublicKeyInfo, in the one form that `cryptography` writes it in.

    Of a symmetric key, its check value.
    """
    if isinstance(key, SymmetricKey):
        return key.check_value
    if isinstance(key, HybridPublicKey):
        return sha256(key.spki()).digest()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def check_recipient(header: Header, key: PublicKey | bytes) -> None:
    """Raises EnvelopeInvalid if the header names another key, given itself or as its `digest`.

    This says nothing about the private key.
    """
    if header.recipient != (key if isinstance(key, bytes) else digest(key)):
        raise EnvelopeInvalid(
            f"the envelope is sealed to the key with SHA-256 {header.recipient.hex()}, not to this one"
        )

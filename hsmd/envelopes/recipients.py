"""Keys that envelopes are sealed to, and the digest that names one in a header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

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


PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey | HybridPublicKey
PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | EcdhKey | x25519.X25519PrivateKey | HybridPrivateKey
)

# SEQUENCE { SEQUENCE { OBJECT IDENTIFIER 1.3.6.1.4.1.62253.25722 }, BIT STRING of 1216 bytes }
_XWING_HEAD = bytes.fromhex("308204d4300d060b2b0601040183e62d81c87a038204c100")


def digest(key: PublicKey) -> bytes:
    """SHA-256 of the key as SubjectPublicKeyInfo, in the one form that `cryptography` writes it in."""
    if isinstance(key, HybridPublicKey):
        return sha256(key.spki()).digest()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def check_recipient(header: Header, key: PublicKey) -> None:
    """Raises EnvelopeInvalid if the header names another key. This says nothing about the private key."""
    if header.recipient != digest(key):
        raise EnvelopeInvalid(
            f"the envelope is sealed to the key with SHA-256 {header.recipient.hex()}, not to this one"
        )

"""HPKE in base mode written from RFC 9180, sections 4 to 6, and X-Wing from its draft, independent of the one in use."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha3_256, shake_256

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

P256, X25519, XWING = 0x0010, 0x0020, 0x647A
HKDF_SHA256 = 0x0001
AES_256_GCM, CHACHA20_POLY1305 = 0x0002, 0x0003
_XWING_LABEL = rb"\.//^" + b"\\"


@dataclass(frozen=True)
class Sender:
    """What the sender of one message has: the encapsulated key and the result of the key schedule."""

    enc: bytes
    key: bytes
    base_nonce: bytes
    aead: int

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """The first message of the context: the nonce is the base nonce."""
        return _aead(self.aead)(self.key).encrypt(self.base_nonce, plaintext, aad)

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        """The inverse, for the recipient."""
        return _aead(self.aead)(self.key).decrypt(self.base_nonce, ciphertext, aad)


def dhkem_p256(dh: bytes, enc: bytes, recipient: bytes) -> bytes:
    """The shared secret of DHKEM(P-256, HKDF-SHA256)."""
    return _extract_and_expand(P256, dh, enc + recipient)


def dhkem_x25519(dh: bytes, enc: bytes, recipient: bytes) -> bytes:
    """The shared secret of DHKEM(X25519, HKDF-SHA256)."""
    return _extract_and_expand(X25519, dh, enc + recipient)


def xwing_keys(seed: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    """The two private keys of a seed of 32 bytes (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey)."""
    expanded = shake_256(seed).digest(96)
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def xwing_encapsulate(
    recipient_m: mlkem.MLKEM768PublicKey, recipient_x: x25519.X25519PublicKey
) -> tuple[bytes, bytes]:
    """The encapsulated key and the shared secret."""
    ephemeral = x25519.X25519PrivateKey.generate()
    secret_m, enc_m = recipient_m.encapsulate()
    enc_x, secret_x = ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(recipient_x)
    return enc_m + enc_x, _combine(secret_m, secret_x, enc_x, recipient_x)


def xwing_decapsulate(m: mlkem.MLKEM768PrivateKey, x: x25519.X25519PrivateKey, enc: bytes) -> bytes:
    """The shared secret of an encapsulated key."""
    enc_m, enc_x = enc[:1088], enc[1088:]
    secret_x = x.exchange(x25519.X25519PublicKey.from_public_bytes(enc_x))
    return _combine(m.decapsulate(enc_m), secret_x, enc_x, x.public_key())


def schedule(kem: int, aead: int, enc: bytes, shared_secret: bytes, info: bytes) -> Sender:
    """KeySchedule of base mode with HKDF-SHA256 (RFC 9180, section 5.1)."""
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (kem, HKDF_SHA256, aead))
    context = b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared_secret, b"secret", b"")
    return Sender(
        enc,
        _expand(suite, secret, b"key", context, 32),
        _expand(suite, secret, b"base_nonce", context, 12),
        aead,
    )


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """The uncompressed point of a key."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _combine(secret_m: bytes, secret_x: bytes, enc_x: bytes, recipient_x: x25519.X25519PublicKey) -> bytes:
    return sha3_256(secret_m + secret_x + enc_x + recipient_x.public_bytes_raw() + _XWING_LABEL).digest()


def _extract_and_expand(kem: int, dh: bytes, context: bytes) -> bytes:
    suite = b"KEM" + kem.to_bytes(2, "big")
    return _expand(suite, _extract(suite, b"", b"eae_prk", dh), b"shared_secret", context, 32)


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand for lengths of at most one block."""
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, labeled + b"\1", "sha256")[:length]


def _aead(number: int) -> Callable[[bytes], AESGCM | ChaCha20Poly1305]:
    return {AES_256_GCM: AESGCM, CHACHA20_POLY1305: ChaCha20Poly1305}[number]

"""HPKE (RFC 9180) in base mode with the header as `info`: the suites whose recipient is a P-256, X25519 or hybrid key.

The body is `enc || ciphertext`, the output of the single-shot SealBase with an empty `aad`.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from hsmd.envelopes import content as contents
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Suite
from hsmd.envelopes.recipients import (
    EcdhKey,
    HybridPrivateKey,
    HybridPublicKey,
    PrivateKey,
    PublicKey,
    SymmetricKey,
    check_recipient,
)
from hsmd.errors import EnvelopeInvalid

_KEMS = {
    Suite.HPKE_P256: (hpke.KEM.P256, "a P-256 key"),
    Suite.HPKE_X25519: (hpke.KEM.X25519, "an X25519 key"),
    Suite.HPKE_MLKEM768_X25519: (hpke.KEM.MLKEM768_X25519, "a hybrid key of ML-KEM-768 and X25519"),
}


def seal(header: Header, content: bytes, recipient: PublicKey) -> Envelope:
    """An envelope with `content`. Raises EnvelopeInvalid if the recipient's key is not of the suite."""
    check_key(header.suite, recipient)
    assert not isinstance(recipient, rsa.RSAPublicKey | SymmetricKey), "check_key has passed"
    key = (
        hpke.MLKEM768X25519PublicKey(recipient.mlkem768, recipient.x25519)
        if isinstance(recipient, HybridPublicKey)
        else recipient
    )
    return Envelope(header, library_suite(header.suite).encrypt(content, key, info=header.encode()))


def unseal(envelope: Envelope, key: PrivateKey) -> bytes:
    """The key in an envelope. Raises EnvelopeInvalid, or what the exchange of an `EcdhKey` raises."""
    header = envelope.header
    check_key(header.suite, key.public_key())
    check_recipient(header, key.public_key())
    asked = _Forwarding(key) if isinstance(key, EcdhKey) else None
    try:
        content = library_suite(header.suite).decrypt(
            envelope.body, asked or _library_key(key), info=header.encode()
        )
    except (InvalidTag, ValueError):
        # The library turns every failure into InvalidTag. That the token is away is not a fault of the envelope.
        if asked is not None and asked.failure is not None:
            raise asked.failure from None
        raise EnvelopeInvalid from None
    return contents.unsealed(header, content)


def check_key(suite: Suite, key: object) -> None:
    """Raises EnvelopeInvalid unless the public key is of this suite."""
    if suite not in _KEMS:
        raise EnvelopeInvalid(f"the suite {suite} takes {'an RSA' if suite.is_rsa else 'a symmetric'} key")
    fits = {
        Suite.HPKE_P256: isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1),
        Suite.HPKE_X25519: isinstance(key, x25519.X25519PublicKey),
        Suite.HPKE_MLKEM768_X25519: isinstance(key, HybridPublicKey),
    }
    if not fits[suite]:
        raise EnvelopeInvalid(f"the suite {suite} takes {_KEMS[suite][1]}")


def library_suite(suite: Suite) -> hpke.Suite:
    """The suite in the terms of `cryptography`. Raises EnvelopeInvalid if its OpenSSL lacks it."""
    try:
        return hpke.Suite(_KEMS[suite][0], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    except UnsupportedAlgorithm:
        raise EnvelopeInvalid(f"the cryptography package on this machine lacks the suite {suite}") from None


def _library_key(
    key: PrivateKey,
) -> ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | hpke.MLKEM768X25519PrivateKey:
    """The key in the class that the library takes."""
    if isinstance(key, HybridPrivateKey):
        return hpke.MLKEM768X25519PrivateKey(key.mlkem768, key.x25519)
    assert isinstance(key, ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey), "check_key has passed"
    return key


class _Forwarding(ec.EllipticCurvePrivateKey):
    """A private key of `cryptography` whose one operation is an `EcdhKey`'s. It remembers what that raised."""

    def __init__(self, key: EcdhKey) -> None:
        self._key = key
        self.failure: Exception | None = None

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        try:
            return self._key.exchange(peer_public_key)
        except Exception as error:
            self.failure = error
            raise

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.public.curve

    @property
    def key_size(self) -> int:
        return self._key.public.key_size

    def sign(self, data: object, signature_algorithm: object) -> NoReturn:
        raise NotImplementedError("this key only opens envelopes")

    def private_numbers(self) -> NoReturn:
        raise NotImplementedError("the private key is elsewhere")

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> NoReturn:  # noqa: A002
        raise NotImplementedError("the private key is elsewhere")

    def __copy__(self) -> _Forwarding:
        return self

    def __deepcopy__(self, memo: object) -> _Forwarding:
        return self

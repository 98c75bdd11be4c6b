"""Seals a key to a public key and opens envelopes, in software, for all suites."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import rsa

from hsmd.envelopes import aes_kwp, content as contents, hpke, recipients, rsa_aes_kwp
from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.recipients import PrivateKey, PublicKey, SymmetricKey
from hsmd.errors import EnvelopeInvalid


def seal_private_key(
    pkcs8: bytes, recipient: PublicKey, suite: Suite, about: Mapping[str, Value]
) -> Envelope:
    """An envelope with a private key, PKCS#8 in DER without encryption. Raises EnvelopeInvalid."""
    spki = contents.spki_digest(pkcs8)
    if spki is None:
        raise EnvelopeInvalid("what shall be sealed is not a private key in DER (PKCS#8, not encrypted)")
    return _seal(Header(suite, Kind.PRIVATE_KEY, recipients.digest(recipient), spki, about), pkcs8, recipient)


def seal_secret_key(
    secret: bytes, recipient: PublicKey, suite: Suite, about: Mapping[str, Value]
) -> Envelope:
    """An envelope with a symmetric key of 16, 24, ... 64 bytes. Raises EnvelopeInvalid."""
    if len(secret) not in contents.SECRET_KEY_BYTES:
        raise EnvelopeInvalid("a symmetric key in an envelope has 16, 24, 32, 40, 48, 56 or 64 bytes")
    return _seal(Header(suite, Kind.SECRET_KEY, recipients.digest(recipient), b"", about), secret, recipient)


def open_envelope(envelope: Envelope, key: PrivateKey) -> bytes:
    """The sealed key: PKCS#8 in DER, or the bytes of a symmetric key. From then on the header is proven too.

    A private key that comes out is the one whose public half the header names. An envelope proves nothing about who
    sealed it: anyone can who has the public key. Raises EnvelopeInvalid, or what the exchange of an `EcdhKey` raises.
    """
    if envelope.header.suite.is_rsa:
        if not isinstance(key, rsa.RSAPrivateKey):
            raise EnvelopeInvalid(f"the suite {envelope.header.suite} takes an RSA key")
        return rsa_aes_kwp.unseal(envelope, key)
    if not envelope.header.suite.is_hpke:
        if not isinstance(key, SymmetricKey):
            raise EnvelopeInvalid(f"the suite {envelope.header.suite} takes a symmetric key")
        return aes_kwp.unseal(envelope, key)
    return hpke.unseal(envelope, key)


def _seal(header: Header, content: bytes, recipient: PublicKey) -> Envelope:
    if header.suite.is_rsa:
        rsa_aes_kwp.check_key(header.suite, recipient)
        assert isinstance(recipient, rsa.RSAPublicKey)
        return rsa_aes_kwp.seal(header, content, recipient)
    if not header.suite.is_hpke:
        aes_kwp.check_key(header.suite, recipient)
        assert isinstance(recipient, SymmetricKey)
        return aes_kwp.seal(header, content, recipient)
    return hpke.seal(header, content, recipient)

"""Bare wrapped keys: `oaep || kwp` without header and tag, as CKM_RSA_AES_KEY_WRAP and key management services have them.

Nothing binds such a blob to what it is for: whoever opens one has to know that from elsewhere. An envelope of an RSA suite
contains one, so an owner can hand a key to other software, and bring one that other software wrapped.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

from hsmd.envelopes import content as contents
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES, Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.rsa_aes_kwp import (
    AES_KEY_BYTES,
    MIN_KWP_BYTES,
    TAG_BYTES,
    check_key,
    kwp_unwrap,
    oaep_decrypt,
)
from hsmd.errors import EnvelopeInvalid


def bare_of(envelope: Envelope) -> bytes:
    """The bare wrapped key in an envelope of an RSA suite. Raises EnvelopeInvalid for other suites.

    The envelope is not opened, so whether it opens, and to which key, is not known.
    """
    if not envelope.header.suite.is_rsa or len(envelope.body) <= TAG_BYTES:
        raise EnvelopeInvalid(
            "only an envelope of an RSA suite contains a wrapped key that other software takes"
        )
    return envelope.body[:-TAG_BYTES]


def open_bare(data: bytes, key: rsa.RSAPrivateKey, suite: Suite, kind: Kind) -> bytes:
    """The key in a bare wrapped key: PKCS#8 in DER, or the bytes of a symmetric key.

    `suite` names the hash of OAEP, and `kind` what must come out. Raises EnvelopeInvalid.
    """
    check_key(suite, key.public_key())
    modulus_bytes = (key.key_size + 7) // 8
    kwp = data[modulus_bytes:]
    if len(data) > MAX_ENVELOPE_BYTES or len(kwp) < MIN_KWP_BYTES or len(kwp) % 8:
        raise EnvelopeInvalid(
            f"not a key wrapped to this RSA key: {modulus_bytes} bytes of OAEP and a multiple of 8 bytes of AES-KWP"
        )
    aes_key = oaep_decrypt(key, suite, data[:modulus_bytes])
    if len(aes_key) != AES_KEY_BYTES:
        raise EnvelopeInvalid
    return _of_kind(kind, kwp_unwrap(aes_key, kwp))


def _of_kind(kind: Kind, content: bytes) -> bytes:
    if kind is Kind.SECRET_KEY:
        if len(content) not in contents.SECRET_KEY_BYTES:
            raise EnvelopeInvalid
        return content
    pkcs8 = contents.without_token_padding(content)
    if contents.spki_digest(pkcs8) is None:
        raise EnvelopeInvalid
    return pkcs8

"""RSA-OAEP of an AES-256 key, and AES-KWP (RFC 5649) under that key: the suites whose recipient is an RSA key.

The body is `oaep || kwp || tag`. `oaep || kwp` is what CKM_RSA_AES_KEY_WRAP makes (PKCS #11 3.0) and what the key
management services of clouds import. Neither OAEP, whose label SoftHSM refuses, nor KWP has room for a header, so `tag`
binds it: KWP, under the same AES key, of the SHA-256 of everything before it. The AES key is used for one envelope, and
whoever does not know it can make no other tag (KWP is an authenticated encryption, NIST SP 800-38F). A token makes and
checks the tag with the mechanism that it has anyway.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from hsmd.envelopes import content as contents
from hsmd.envelopes.envelope import Envelope, prefix
from hsmd.envelopes.header import Header, Suite
from hsmd.envelopes.recipients import check_recipient
from hsmd.errors import EnvelopeInvalid

AES_KEY_BYTES = 32
TAG_BYTES = 40
"""KWP of 32 bytes."""
MIN_KWP_BYTES = 16
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192
MAC_MESSAGE = b"hsmd-envelope/1 tag"
"""What a token makes an HMAC of under the content of a tag (`Parts.check_mac`)."""

_HASHES: dict[Suite, Callable[[], hashes.HashAlgorithm]] = {
    Suite.RSA_OAEP_SHA1_KWP: hashes.SHA1,
    Suite.RSA_OAEP_SHA256_KWP: hashes.SHA256,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """An envelope cut for a token.

    The token unwraps `oaep` to an AES-256 key, unwraps `tag` under it to a generic secret that can only sign, and makes
    the HMAC-SHA256 of MAC_MESSAGE with that. Only if `check_mac` accepts it, it unwraps `kwp`. So nothing that came out
    of the envelope can be read, whatever an attacker put in the place of the tag.
    """

    oaep: bytes
    kwp: bytes
    tag: bytes
    digest: bytes = field(repr=False)
    """What `tag` must contain."""

    def check_mac(self, mac: bytes) -> None:
        """Raises EnvelopeInvalid unless `mac` was made with what the tag of an unaltered envelope contains."""
        if not hmac.compare_digest(mac, hmac.digest(self.digest, MAC_MESSAGE, "sha256")):
            raise EnvelopeInvalid


def split(envelope: Envelope, recipient: rsa.RSAPublicKey) -> Parts:
    """The parts of an envelope to `recipient`. Raises EnvelopeInvalid if it is not one."""
    check_key(envelope.header.suite, recipient)
    check_recipient(envelope.header, recipient)
    body, modulus_bytes = envelope.body, (recipient.key_size + 7) // 8
    kwp = body[modulus_bytes:-TAG_BYTES]
    if len(body) < modulus_bytes + MIN_KWP_BYTES + TAG_BYTES or len(kwp) % 8:
        raise EnvelopeInvalid("not an envelope of its suite: the body does not have the length of its parts")
    oaep = body[:modulus_bytes]
    return Parts(oaep, kwp, body[-TAG_BYTES:], tag_content(envelope.header, oaep, kwp))


def tag_content(header: Header, oaep: bytes, kwp: bytes) -> bytes:
    """The 32 bytes that the tag contains: SHA-256 of everything before the tag."""
    return sha256(prefix(header) + oaep + kwp).digest()


def join(header: Header, oaep: bytes, kwp: bytes, tag: bytes) -> Envelope:
    """The envelope of parts that a token made; `tag` is KWP of `tag_content`."""
    return Envelope(header, oaep + kwp + tag)


def seal(
    header: Header, content: bytes, recipient: rsa.RSAPublicKey, random: Callable[[int], bytes] = os.urandom
) -> Envelope:
    """An envelope with `content`, made in software."""
    check_key(header.suite, recipient)
    aes_key = random(AES_KEY_BYTES)
    oaep = oaep_encrypt(recipient, header.suite, aes_key)
    kwp = kwp_wrap(aes_key, content)
    return join(header, oaep, kwp, kwp_wrap(aes_key, tag_content(header, oaep, kwp)))


def unseal(envelope: Envelope, key: rsa.RSAPrivateKey) -> bytes:
    """The key in an envelope, opened in software. Raises EnvelopeInvalid."""
    parts = split(envelope, key.public_key())
    aes_key = oaep_decrypt(key, envelope.header.suite, parts.oaep)
    if len(aes_key) != AES_KEY_BYTES or not hmac.compare_digest(kwp_unwrap(aes_key, parts.tag), parts.digest):
        raise EnvelopeInvalid
    return contents.unsealed(envelope.header, kwp_unwrap(aes_key, parts.kwp))


def oaep_encrypt(key: rsa.RSAPublicKey, suite: Suite, aes_key: bytes) -> bytes:
    """RSAES-OAEP (RFC 8017, section 7.1) with an empty label."""
    return key.encrypt(aes_key, _oaep(suite))


def oaep_decrypt(key: rsa.RSAPrivateKey, suite: Suite, data: bytes) -> bytes:
    """The inverse of `oaep_encrypt`. Raises EnvelopeInvalid, alike for everything that can be wrong."""
    try:
        return key.decrypt(data, _oaep(suite))
    except ValueError:
        raise EnvelopeInvalid from None


def kwp_wrap(aes_key: bytes, data: bytes) -> bytes:
    """AES-KWP (RFC 5649)."""
    return aes_key_wrap_with_padding(aes_key, data)


def kwp_unwrap(aes_key: bytes, wrapped: bytes) -> bytes:
    """The inverse of `kwp_wrap`. Raises EnvelopeInvalid if the check value, the length or the padding is wrong."""
    try:
        return aes_key_unwrap_with_padding(aes_key, wrapped)
    except (ValueError, InvalidUnwrap):
        raise EnvelopeInvalid from None


def check_key(suite: Suite, key: object) -> None:
    """Raises EnvelopeInvalid unless an RSA key of this size goes with this suite."""
    if suite not in _HASHES:
        raise EnvelopeInvalid(f"an RSA key does not open envelopes of the suite {suite}")
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise EnvelopeInvalid(f"the suite {suite} takes RSA keys of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")


def _oaep(suite: Suite) -> padding.OAEP:
    algorithm = _HASHES[suite]
    return padding.OAEP(padding.MGF1(algorithm()), algorithm(), None)

"""AES-KWP (RFC 5649) under a symmetric key, and under a one-time AES key: the suite whose recipient is an AES-256 key.

The body is that of the RSA suites with OAEP replaced by KWP: `kwp(K) || kwp || tag`. The one-time key K gives each
envelope a tag that binds its header, so the recipient's key itself wraps nothing but random keys.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

from hsmd.envelopes import content as contents
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Suite
from hsmd.envelopes.recipients import SymmetricKey, check_recipient
from hsmd.envelopes.rsa_aes_kwp import (
    AES_KEY_BYTES,
    MIN_KWP_BYTES,
    TAG_BYTES,
    Parts,
    join,
    kwp_unwrap,
    kwp_wrap,
    tag_content,
)
from hsmd.errors import EnvelopeInvalid

WRAPPED_KEY_BYTES = 40
"""KWP of an AES-256 key."""


def split(envelope: Envelope, recipient: SymmetricKey | bytes) -> Parts:
    """The parts of an envelope to a key, given itself or as its check value; `oaep` is KWP of K.

    Raises EnvelopeInvalid if it is not one.
    """
    _check_suite(envelope.header.suite)
    check_recipient(envelope.header, recipient)
    body = envelope.body
    kwp = body[WRAPPED_KEY_BYTES:-TAG_BYTES]
    if len(body) < WRAPPED_KEY_BYTES + MIN_KWP_BYTES + TAG_BYTES or len(kwp) % 8:
        raise EnvelopeInvalid("not an envelope of its suite: the body does not have the length of its parts")
    wrapped = body[:WRAPPED_KEY_BYTES]
    return Parts(wrapped, kwp, body[-TAG_BYTES:], tag_content(envelope.header, wrapped, kwp))


def seal(
    header: Header, content: bytes, recipient: SymmetricKey, random: Callable[[int], bytes] = os.urandom
) -> Envelope:
    """An envelope with `content`, made in software."""
    check_key(header.suite, recipient)
    aes_key = random(AES_KEY_BYTES)
    wrapped, kwp = kwp_wrap(recipient.key, aes_key), kwp_wrap(aes_key, content)
    return join(header, wrapped, kwp, kwp_wrap(aes_key, tag_content(header, wrapped, kwp)))


def unseal(envelope: Envelope, key: SymmetricKey) -> bytes:
    """The key in an envelope, opened in software. Raises EnvelopeInvalid."""
    parts = split(envelope, key)
    aes_key = kwp_unwrap(key.key, parts.oaep)
    if len(aes_key) != AES_KEY_BYTES or not hmac.compare_digest(kwp_unwrap(aes_key, parts.tag), parts.digest):
        raise EnvelopeInvalid
    return contents.unsealed(envelope.header, kwp_unwrap(aes_key, parts.kwp))


def check_key(suite: Suite, key: object) -> None:
    """Raises EnvelopeInvalid unless a symmetric key goes with this suite."""
    _check_suite(suite)
    if not isinstance(key, SymmetricKey):
        raise EnvelopeInvalid(f"the suite {suite} takes a symmetric key")


def _check_suite(suite: Suite) -> None:
    if suite is not Suite.AES256_KWP:
        raise EnvelopeInvalid(f"a symmetric key does not open envelopes of the suite {suite}")

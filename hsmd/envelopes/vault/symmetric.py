"""Check values: what stands for a symmetric key where only its owner may have the key itself."""

from __future__ import annotations

import hmac
from hashlib import sha256

from hsmd.errors import EnvelopeInvalid

MIN_KEY_BYTES = 16
"""A check value lets anyone test guesses of the key, so it must be too long to guess."""
_CONTEXT = b"hsmd vault key check v1\0"
_MESSAGE = b"check"


def key_check(secret: bytes) -> str:
    """The check value of a deposited symmetric key, in hex: SHA-256(context || HMAC-SHA256(key, "check")).

    Raises EnvelopeInvalid for keys below 128 bits.
    """
    if len(secret) < MIN_KEY_BYTES:
        raise EnvelopeInvalid(
            f"a symmetric key of less than {MIN_KEY_BYTES * 8} bits has no check value: it could be guessed"
        )
    return sha256(_CONTEXT + hmac.digest(secret, _MESSAGE, "sha256")).hexdigest()

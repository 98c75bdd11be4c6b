"""TLS 1.2 RSA premaster secrets: raw RSA in the token; the padding is removed here without revealing whether it is valid.

The result is always 03 03 followed by 46 bytes. For a well-formed plaintext (RFC 5246, section 7.4.7.1) they are the
client's; otherwise they are HMAC-SHA-256 of the ciphertext under a secret of the key, so that a repeated request reveals
nothing. The version bytes are the same in both cases: 48 random bytes would show a front end that the padding was invalid,
which is the oracle of Bleichenbacher's attack.

The secret is derived from the key itself, so that all workers and daemons with the key compute the same without storing it
(docs/adr/0002): it is the hash of the raw RSA private operation on a fixed value. That value covers the whole domain (MGF1 of a
label and the key's digest), so computing its image without the private key is the RSA problem. Sending the value itself as a
ciphertext does not help: its plaintext is malformed (except with probability 2^-40 or less) and is never returned.

Steps for every ciphertext: 1. both halves of the pseudo-random answer; 2. one call to the token, on the ciphertext or, if it
is not one for this key, on a number derived from it; 3. one comparison of all fixed positions, which are known because a
premaster secret has 48 bytes; 4. selection of one of two answers by index. No branch depends on the plaintext.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple

PREMASTER_BYTES = 48
VERSION = b"\x03\x03"
_LABEL = b"hsmd premaster secret v1"
_NON_ZERO = bytes([1]) + bytes(255)
"""Translation table: 1 for a zero byte, 0 for any other."""

RawDecrypt = Callable[[bytes], bytes]


class Prepared(NamedTuple):
    """The answer if the plaintext is malformed, whether the ciphertext is acceptable, and the block to decrypt."""

    pseudo_random: bytes
    acceptable: bool
    block: bytes


class Premaster:
    """Decrypts premaster secrets with one RSA key."""

    __slots__ = ("_expected", "_modulus", "_raw", "_secret", "_size")

    def __init__(self, raw_decrypt: RawDecrypt, modulus: int, digest: bytes) -> None:
        """`raw_decrypt` is the token's CKM_RSA_X_509 on a block of the modulus' length; it is called once here."""
        self._raw = raw_decrypt
        self._modulus = modulus
        self._size = (modulus.bit_length() + 7) // 8
        padding = self._size - 3 - PREMASTER_BYTES
        self._expected = b"\x00\x02" + bytes(padding) + b"\x00" + VERSION + b"\x00"
        image = self.use(Prepared(b"", True, full_domain_constant(digest, self._size)))
        self._secret = hashlib.sha256(_LABEL + image).digest()

    def prepare(self, ciphertext: bytes) -> Prepared:
        """Step 1, and the block for the token."""
        number = int.from_bytes(ciphertext, "big")
        # The sender knows length and value of the ciphertext, so these checks need not take constant time.
        acceptable = len(ciphertext) == self._size and number < self._modulus
        block = (number % self._modulus).to_bytes(self._size, "big")
        return Prepared(self._pseudo_random(ciphertext), acceptable, block)

    def use(self, prepared: Prepared) -> bytes:
        """Step 2. Raises PKCS11Error if the token fails, which does not depend on the plaintext."""
        # Some tokens strip leading zeros of a raw result.
        return self._raw(prepared.block).rjust(self._size, b"\0")

    def finish(self, prepared: Prepared, plain: bytes) -> bytes:
        """Steps 3 and 4: 48 bytes for every ciphertext."""
        well_formed = self._well_formed(plain, prepared.acceptable)
        return VERSION + (prepared.pseudo_random, plain[-46:])[well_formed]

    def _well_formed(self, plain: bytes, acceptable: bool) -> bool:
        """Whether it is 00 02, non-zero padding, 00, version: one comparison in constant time."""
        found = plain[:2] + plain[2:-49].translate(_NON_ZERO) + plain[-49:-46] + bytes([not acceptable])
        return hmac.compare_digest(found, self._expected)

    def _pseudo_random(self, ciphertext: bytes) -> bytes:
        first = hmac.digest(self._secret, b"\x01" + ciphertext, "sha256")
        second = hmac.digest(self._secret, b"\x02" + ciphertext, "sha256")
        return first + second[:14]


def full_domain_constant(digest: bytes, size: int) -> bytes:
    """The fixed value of a key: MGF1-SHA-256 (RFC 8017, appendix B.2.1), below any modulus of `size` bytes."""
    seed = _LABEL + digest
    blocks = (hashlib.sha256(seed + counter.to_bytes(4, "big")).digest() for counter in range(-(-size // 32)))
    mask = b"".join(blocks)[:size]
    return bytes([mask[0] & 0x7F]) + mask[1:]

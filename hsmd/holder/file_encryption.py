"""Private keys in a file, encrypted with a passphrase: scrypt (RFC 7914) and AES-256-GCM, so that a wrong passphrase is noticed.

The parameters stand beside what is encrypted; a reader bounds them before it uses them.
"""

from __future__ import annotations

import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hsmd.errors import BadRequest

COST = 1 << 17
"""N of new files: 128 MiB and about half a second."""
COSTS = range(14, 21)
"""Binary logarithms of the N that are read."""
MIN_PASSPHRASE = 8
"""Characters, of new files: whoever has copied a file can try passphrases without being noticed."""
MAX_PASSPHRASE = 1_024
"""Bytes."""
_BLOCK, _PARALLEL = 8, 1
_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32


class PassphraseRefused(BadRequest):
    """The passphrase does not decrypt the file, or the file was altered: these cannot be told apart."""


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is encrypted, as it stands in a file."""

    cost: int
    """N of scrypt; r is 8 and p is 1."""
    salt: bytes
    nonce: bytes
    data: bytes
    """AES-256-GCM, with its tag."""


def encrypt(content: bytes, passphrase: bytes, about: bytes, cost: int = COST) -> Sealed:
    """Encrypt `content`; it decrypts with the same `about` only."""
    check_passphrase(passphrase)
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    data = AESGCM(_key(passphrase, salt, cost)).encrypt(nonce, content, about)
    return Sealed(cost, salt, nonce, data)


def decrypt(sealed: Sealed, passphrase: bytes, about: bytes) -> bytes:
    """The content. Raises PassphraseRefused, or BadRequest for parameters that no release writes."""
    if sealed.cost not in [1 << each for each in COSTS] or len(sealed.nonce) != _NONCE_BYTES:
        raise BadRequest(
            "the file asks for an unknown amount of work (cost); it is damaged: use a copy of it"
        )
    if len(passphrase) > MAX_PASSPHRASE:
        raise PassphraseRefused("the passphrase does not open the file; try again")
    try:
        return AESGCM(_key(passphrase, sealed.salt, sealed.cost)).decrypt(sealed.nonce, sealed.data, about)
    except InvalidTag:
        raise PassphraseRefused(
            "the passphrase does not open the file, or the file was altered; try again, or use the backup of the key"
        ) from None


def check_passphrase(passphrase: bytes) -> None:
    """Raises BadRequest for a passphrase that a new file cannot have."""
    if len(passphrase.decode("utf-8", "surrogateescape")) < MIN_PASSPHRASE:
        raise BadRequest(f"a passphrase has at least {MIN_PASSPHRASE} characters; choose a longer one")
    if len(passphrase) > MAX_PASSPHRASE:
        raise BadRequest(f"a passphrase has at most {MAX_PASSPHRASE} bytes; choose a shorter one")


def _key(passphrase: bytes, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=cost, r=_BLOCK, p=_PARALLEL).derive(passphrase)

"""Signatures: conversion from the token's format to that of TLS, and verification before they are sent.

A faulty CRT signature reveals the RSA key (Boneh, DeMillo, Lipton 1997), so RSA signatures are always verified.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hsmd.algorithms import SCHEMES, Family, Padding, SignatureScheme
from hsmd.errors import TokenFailure
from hsmd.pkcs11.public_keys import PublicHalf

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class FaultySignature(TokenFailure):
    """The token returned an invalid signature."""


class WrongKey(TokenFailure):
    """The private key object is not that of the ceiling's public half: another one took its place in the token."""

    default_text = "the private key in the token is not the one that was adopted"


def ecdsa_signature(raw: bytes, size: int) -> bytes:
    """DER Ecdsa-Sig-Value (RFC 3279, section 2.2.3) from r and s, `size` bytes each.

    Raises FaultySignature for another length, or if r or s is zero.
    """
    r = raw[:size].lstrip(b"\0")
    s = raw[size:].lstrip(b"\0")
    if len(raw) != 2 * size or not r or not s:
        raise FaultySignature(
            detail=f"an ECDSA signature of {len(raw)} bytes instead of {2 * size}, or r or s is zero"
        )
    if r[0] & 0x80:
        r = b"\0" + r
    if s[0] & 0x80:
        s = b"\0" + s
    length = len(r) + len(s) + 4
    if length < 0x80:
        return b"\x30%c\x02%c%b\x02%c%b" % (length, len(r), r, len(s), s)
    return b"\x30\x81%c\x02%c%b\x02%c%b" % (length, len(r), r, len(s), s)


def checked_size(raw: bytes, expected: int) -> bytes:
    """The signature unchanged. Raises FaultySignature for another length."""
    if len(raw) != expected:
        raise FaultySignature(detail=f"a signature of {len(raw)} bytes instead of {expected}")
    return raw


Verify = Callable[[bytes, bytes], None]


def verifier(half: PublicHalf, scheme: SignatureScheme) -> Verify:
    """A function (signature, digest or for Ed25519 message) that raises FaultySignature if it does not verify."""
    verify = half.public_key.verify
    arguments = _arguments(scheme)

    def check(signature: bytes, signed: bytes) -> None:
        try:
            verify(signature, signed, *arguments)
        except InvalidSignature:
            raise FaultySignature(
                detail="the token's signature does not verify with the public key"
            ) from None

    return check


def _arguments(scheme: SignatureScheme) -> tuple[object, ...]:
    facts = SCHEMES[scheme]
    if facts.family is Family.ED25519:
        return ()
    algorithm = Prehashed(_HASHES[facts.hash])
    if facts.family is Family.EC:
        return (ec.ECDSA(algorithm),)
    if facts.padding is Padding.PKCS1:
        return (padding.PKCS1v15(), algorithm)
    return (padding.PSS(padding.MGF1(_HASHES[facts.hash]), facts.hash_bytes), algorithm)
